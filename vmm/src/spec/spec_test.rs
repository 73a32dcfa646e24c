use nvvmm_devices::virtio::{PmemSpec, RngSpec};

use super::*;

fn disk(path: &str) -> DiskSpec {
    DiskSpec {
        source: crate::spec::DiskSource::File(path.into()),
        read_only: false,
        ..DiskSpec::default()
    }
}

#[test]
fn the_builder_gives_slots_in_the_order_of_calls() {
    let spec = VmSpec::builder("/kernel")
        .vsock()
        .disks([disk("/a")])
        .device_at(9, DeviceKind::Pmem(PmemSpec {}))
        .device(DeviceKind::Rng(RngSpec {}))
        .build();
    let slots: Vec<u32> = spec.devices.iter().map(|device| device.slot).collect();
    assert_eq!(slots, [0, 1, 2, 9, 10]);
    assert_eq!(spec.devices[0].kind, DeviceKind::Rng(RngSpec {}));
    assert!(spec.has_vsock());
}

#[test]
fn disks_are_replaced_one_for_one_where_they_are() {
    let mut spec = VmSpec::builder("/kernel")
        .disks([disk("/a")])
        .vsock()
        .disks([disk("/b")])
        .build();
    let before = spec.clone();
    assert!(!spec.replace_disks(&[disk("/c")]));
    assert_eq!(spec, before);
    assert!(spec.replace_disks(&[disk("/c"), disk("/d")]));
    let disks: Vec<_> = spec.disks().cloned().collect();
    assert_eq!(disks, [disk("/c"), disk("/d")]);
    assert!(spec.has_same_devices(&before));
    assert_ne!(spec, before);
}

#[test]
fn machines_with_other_kinds_or_slots_differ() {
    let one = VmSpec::builder("/kernel")
        .disks([disk("/a")])
        .vsock()
        .build();
    let other_order = VmSpec::builder("/kernel")
        .vsock()
        .disks([disk("/a")])
        .build();
    let fewer = VmSpec::builder("/kernel").disks([disk("/a")]).build();
    let mut other_slot = one.clone();
    other_slot.devices[2].slot = 7;
    for other in [other_order, fewer, other_slot] {
        assert!(!one.has_same_devices(&other), "{other:?}");
    }
}

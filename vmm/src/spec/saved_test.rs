//! Specs that older versions have saved, and those that only newer ones can.

use std::path::Path;

use nvvmm_devices::virtio::{PmemSpec, RngSpec, VsockSpec};

use super::saved::{BY_ORDER, LISTED};
use super::*;
use crate::checkpoint::blob::{self, BlobError, SavedVm};

/// State of a machine with two disks, taken by nvvmm e982ddc, before specs listed their devices.
pub(crate) const BLOB: &[u8] = include_bytes!("fixtures/saved-vm.blob");
/// Place of the spec in it: behind the header and two lines of the table.
const SPEC_AT: usize = 96;
const SPEC_BYTES: usize = 209;
/// Specs from before there were pmem devices, and vsock devices.
const NO_PMEM: &[u8] = br#"{"kernel":"/k","initramfs":"/i","cmdline":"quiet","vcpus":3,
    "memory_bytes":4194304,"disks":[{"path":"/a","read_only":false}],"vsock":true}"#;
const NO_VSOCK: &[u8] =
    br#"{"kernel":"/k","initramfs":null,"cmdline":"","vcpus":1,"memory_bytes":2097152,"disks":[]}"#;

fn blobs_spec() -> &'static [u8] {
    &BLOB[SPEC_AT..SPEC_AT + SPEC_BYTES]
}

fn decode(bytes: &[u8]) -> VmSpec {
    serde_json::from_slice(bytes).unwrap()
}

fn disk(path: &str, read_only: bool) -> DeviceKind {
    DeviceKind::Disk(DiskSpec {
        source: crate::spec::DiskSource::File(path.into()),
        read_only,
        ..DiskSpec::default()
    })
}

/// An older spec, as it is saved now.
fn with_architecture(old: &[u8]) -> Vec<u8> {
    let open = old.strip_suffix(b"}").unwrap();
    [open, br#","architecture":"x86_64"}"#].concat()
}

/// The kinds of devices, each of which is in the slot of its place in the list.
fn kinds(spec: &VmSpec) -> Vec<DeviceKind> {
    let slots: Vec<u32> = spec.devices.iter().map(|device| device.slot).collect();
    assert_eq!(slots, (0..slots.len() as u32).collect::<Vec<_>>());
    spec.devices
        .iter()
        .map(|device| device.kind.clone())
        .collect()
}

#[test]
fn devices_of_old_specs_are_in_the_slots_that_their_order_gave() {
    let rng = DeviceKind::Rng(RngSpec {});
    let vsock = DeviceKind::Vsock(VsockSpec {});
    let pmem = DeviceKind::Pmem(PmemSpec {});
    assert_eq!(kinds(&decode(NO_VSOCK)), std::slice::from_ref(&rng));
    let spec = decode(NO_PMEM);
    let expected = [rng.clone(), disk("/a", false), vsock.clone()];
    assert_eq!(kinds(&spec), expected);
    let VmSpec {
        kernel,
        initramfs,
        cmdline,
        ..
    } = &spec;
    let kernel = kernel.as_deref().and_then(Path::to_str);
    let texts = (kernel, initramfs.as_deref(), cmdline.as_str());
    assert_eq!(texts, (Some("/k"), Some(Path::new("/i")), "quiet"));
    assert_eq!((spec.vcpus, spec.memory_bytes), (3, 4 << 20));
    let [a, b] = [disk("/tmp/fx/a.img", false), disk("/tmp/fx/b.img", true)];
    let mut expected = vec![rng, a, b, vsock];
    expected.extend(vec![pmem; 4]);
    assert_eq!(kinds(&decode(blobs_spec())), expected);
}

#[test]
fn a_whole_state_of_an_older_version_is_read() {
    let saved = SavedVm::decode(BLOB).unwrap();
    assert_eq!(saved.spec, decode(blobs_spec()));
    assert_eq!(saved.machine.kvm.vcpus.len(), 1);
    let instances: Vec<_> = { saved.machine.devices.iter() }
        .map(|device| device.instance.as_str())
        .collect();
    let virtio = [
        "rng0", "disk0", "disk1", "vsock0", "window0", "window1", "window2", "window3",
    ];
    assert_eq!(instances[..2], ["com1", "power0"]);
    assert_eq!(instances[2..], virtio);
}

#[test]
fn a_state_that_an_older_version_can_read_differs_by_the_architecture_only() {
    let spec = decode(blobs_spec());
    assert_eq!(spec.section_version(), BY_ORDER);
    let (old, new) = (blobs_spec(), with_architecture(blobs_spec()));
    assert_eq!(serde_json::to_vec(&spec).unwrap(), new);
    let blob = SavedVm::decode(BLOB).unwrap().encode().unwrap();
    assert_eq!(blob[SPEC_AT..][..new.len()], new);
    assert_eq!(blob[SPEC_AT + new.len()..], BLOB[SPEC_AT + old.len()..]);
}

#[test]
fn other_devices_are_saved_as_a_list_in_a_section_of_its_own_version() {
    let usual = decode(blobs_spec());
    let (mut moved, mut swapped, mut none) = (usual.clone(), usual.clone(), usual);
    moved.devices[6].slot = 12;
    swapped.devices.swap(3, 4);
    none.devices.clear();
    for spec in [moved, swapped, none] {
        assert_eq!(spec.section_version(), LISTED);
        let bytes = serde_json::to_vec(&spec).unwrap();
        assert_eq!(decode(&bytes), spec);
        let mut saved = SavedVm::decode(BLOB).unwrap();
        saved.spec = spec;
        let blob = saved.encode().unwrap();
        assert_eq!(SavedVm::decode(&blob).unwrap().spec, saved.spec);
        // The first section of the table: its number, its version.
        assert_eq!(blob[32..40], [1, 0, 0, 0, 2, 0, 0, 0]);
    }
}

#[test]
fn a_disk_of_the_pool_is_saved_in_a_version_that_older_programs_refuse() {
    let pool_disk = DeviceKind::Disk(DiskSpec {
        read_only: true,
        ..DiskSpec::of_pool("base")
    });
    let spec = { VmSpec::builder("/k").device(disk("/d", false)) }.device(pool_disk);
    let spec = spec.build();
    let value = serde_json::to_value(&spec).unwrap();
    let expected = serde_json::json!([
        {"slot": 0, "kind": "rng"},
        {"slot": 1, "kind": "disk", "path": "/d", "read_only": false},
        {"slot": 2, "kind": "disk", "pool_disk": "base", "read_only": true},
    ]);
    assert_eq!(value["devices"], expected);
    let mut saved = SavedVm::decode(BLOB).unwrap();
    saved.spec = spec;
    let blob = saved.encode().unwrap();
    assert_eq!(blob[32..40], [1, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(SavedVm::decode(&blob).unwrap().spec, saved.spec);
}

#[test]
fn a_list_is_written_with_kinds_by_name() {
    let spec = VmSpec::builder("/k").device_at(5, disk("/d", true)).build();
    let value = serde_json::to_value(&spec).unwrap();
    let expected = serde_json::json!([
        {"slot": 0, "kind": "rng"},
        {"slot": 5, "kind": "disk", "path": "/d", "read_only": true},
    ]);
    assert_eq!(value["devices"], expected);
}

#[test]
fn a_spec_in_neither_form_or_both_is_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut value: serde_json::Value = serde_json::from_slice(NO_VSOCK).unwrap();
        change(value.as_object_mut().unwrap());
        serde_json::from_value::<VmSpec>(value)
            .unwrap_err()
            .to_string()
    };
    let neither = refused(&|spec| drop(spec.remove("disks")));
    assert!(neither.contains("neither"), "{neither}");
    let both = refused(&|spec| drop(spec.insert("devices".into(), serde_json::json!([]))));
    assert!(both.contains("neither"), "{both}");
}

/// A spec as nvvmm read it before specs listed their devices.
#[derive(Deserialize)]
struct OldSpec {
    disks: Vec<DiskSpec>,
    #[serde(default)]
    vsock: bool,
    #[serde(default)]
    windows: u8,
}

#[test]
fn an_older_version_reads_what_is_saved_for_it() {
    let bytes = serde_json::to_vec(&decode(blobs_spec())).unwrap();
    let old: OldSpec = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((old.disks.len(), old.vsock, old.windows), (2, true, 4));
}

#[test]
fn a_machine_of_another_architecture_is_refused_by_name() {
    let other = String::from_utf8(with_architecture(NO_VSOCK)).unwrap();
    let other = other.replace("x86_64", "aarch64");
    // Nothing but the architecture is known of such a machine: neither its state nor its devices.
    let strange = r#"{"architecture":"aarch64","devices":[{"slot":0,"kind":"gic"}]}"#;
    for spec in [other.as_str(), strange] {
        let blob = blob::assemble(&[(2, b"state of another architecture"), (1, spec.as_bytes())]);
        let error = SavedVm::decode(&blob).unwrap_err();
        assert!(matches!(error, BlobError::OtherArchitecture(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("aarch64") && text.contains("x86_64"),
            "{text}"
        );
    }
}

#[test]
fn a_machine_with_a_card_is_saved_in_a_section_that_older_versions_refuse() {
    use super::{Mac, NetChoice, NetPolicy, NetSource, Protocol, Published};
    let published = Published {
        protocol: Protocol::Udp,
        address: Some("::1".parse().unwrap()),
        host_port: 8000,
        guest_port: 9000,
        count: 11,
    };
    for source in [
        NetSource::None,
        NetSource::Fd { fd: 4 },
        NetSource::Tap {
            name: "tap0".into(),
        },
        NetSource::Passt {
            published: vec![published],
        },
    ] {
        let choice = NetChoice {
            netns: Some("blue".into()),
            policy: NetPolicy {
                deny: vec!["10.0.0.0/8".parse().unwrap()],
                allow: vec![],
            },
            ..NetChoice::of(source)
        };
        let card = choice.new_card(Mac::local([0, 1, 2, 3, 4, 5]));
        let spec = VmSpec::builder("/kernel")
            .agent_devices()
            .net(Some(card))
            .build();
        assert_eq!(spec.section_version(), 4);
        assert!(VmSpec::reads_section(4));
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains("\"mac\":\"02:01:02:03:04:05\""), "{text}");
        assert_eq!(serde_json::from_str::<VmSpec>(&text).unwrap(), spec);
    }
}

#[test]
fn a_machine_with_a_balloon_is_refused_by_older_versions_for_its_number() {
    let spec = VmSpec::builder("/kernel").agent_devices().balloon().build();
    assert_eq!(spec.section_version(), 5);
    assert!(VmSpec::reads_section(5) && !VmSpec::reads_section(6));
    let text = serde_json::to_string(&spec).unwrap();
    assert!(text.contains(r#"{"slot":6,"kind":"balloon"}"#), "{text}");
    assert_eq!(serde_json::from_str::<VmSpec>(&text).unwrap(), spec);
    assert!(spec.has_balloon());
    assert!(
        !VmSpec::builder("/kernel")
            .agent_devices()
            .build()
            .has_balloon()
    );
}

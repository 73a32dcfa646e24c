//! A disk as persistent memory.

use vm_memory::GuestMemoryMmap;

use super::*;

type Device = dyn VirtioDevice<GuestMemoryMmap>;

const RANGE: PmemRange = PmemRange {
    gpa: 5 << 30,
    size_bytes: 32 << 20,
};

#[test]
fn a_driver_finds_the_memory_and_keeps_it_after_a_reset() {
    let mut disk = DaxDisk::new(RANGE);
    let device: &mut Device = &mut disk;
    assert_eq!(device.device_type(), VIRTIO_ID_PMEM);
    device.activate(0);
    device.reset();
    let mut fields = [0xee; 24];
    device.read_config(0, &mut fields);
    assert_eq!(fields[..8], RANGE.gpa.to_le_bytes());
    assert_eq!(fields[8..16], RANGE.size_bytes.to_le_bytes());
    assert_eq!(fields[16..], [0; 8]);
}

#[test]
fn a_state_is_taken_by_a_disk_at_the_same_place_only() {
    let mut disk = DaxDisk::new(RANGE);
    let device: &mut Device = &mut disk;
    let saved = device.save("disk1").unwrap();
    device.restore("disk1", &saved).unwrap();
    for range in [
        PmemRange {
            gpa: 6 << 30,
            ..RANGE
        },
        PmemRange {
            size_bytes: 16 << 20,
            ..RANGE
        },
    ] {
        let mut other = DaxDisk::new(range);
        let device: &mut Device = &mut other;
        let refused = device.restore("disk1", &saved);
        assert!(
            matches!(refused, Err(LifecycleError::Rejected { .. })),
            "{refused:?}"
        );
    }
}

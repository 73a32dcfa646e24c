//! Devices that a machine cannot have.

use super::*;
use crate::spec::DiskSpec;

fn refusal(disks: &[DiskSpec]) -> String {
    let spec = VmSpec::builder("/k").disks(disks.iter().cloned()).build();
    check(&spec).unwrap_err().to_string()
}

#[test]
fn disks_of_the_pool_that_no_snapshot_could_hold_are_refused() {
    let disk = |number: usize| DiskSpec::of_pool(format!("d{number}"));
    let disks: Vec<_> = (0..9).map(disk).collect();
    let spec = VmSpec::builder("/k").disks(disks[..8].to_vec()).build();
    check(&spec).unwrap();
    assert!(refusal(&disks).contains("at most 8 disks of the pool, not 9"));
    let twice = refusal(&[disk(1), disk(2), disk(1)]);
    assert!(twice.contains("'d1' of the pool is given twice"), "{twice}");
}

#[test]
fn only_a_read_only_disk_of_the_pool_is_shown_as_memory() {
    let with = |read_only, disk| DiskSpec {
        read_only,
        dax: true,
        ..disk
    };
    let good = with(true, DiskSpec::of_pool("root"));
    check(&VmSpec::builder("/k").disks([good]).build()).unwrap();
    for bad in [
        with(false, DiskSpec::of_pool("root")),
        with(true, DiskSpec::of_file("/root.img")),
    ] {
        assert!(refusal(&[bad]).contains("',ro,dax'"));
    }
}

use nvvmm_snapshot::{
    Durability, DurabilityLimit, EngineKind, HolderStatus, Identity, Medium, SnapshotId,
    SnapshotKind,
};

use super::*;

fn status() -> PoolStatus {
    PoolStatus {
        path: "/dev/shm/p".into(),
        uuid: "u".into(),
        medium: Medium::Tmpfs,
        cow_engine: EngineKind::Userfaultfd,
        cow_engine_reason: "because",
        durability: DurabilityLimit {
            strongest: Durability::Process,
            reason: "memory".into(),
        },
        overcommit: false,
        size_bytes: 64 << 20,
        medium_bytes: 8192,
        total_blocks: 16_384,
        metadata_blocks: 512,
        snapshot_blocks: 256,
        leased_blocks: 1024,
        free_blocks: 14_592,
        snapshots: 2,
        orphans: 1,
        incomplete: 1,
        disks: 3,
        generation: 9,
        holders: Vec::new(),
    }
}

#[test]
fn a_status_is_shown_with_who_uses_the_pool() {
    let expected = "\
pool                /dev/shm/p
uuid                u
medium              tmpfs
copy-on-write       userfaultfd: because
durability          process: memory
overcommit          no
size                64.0 MiB
snapshots, disks    1.0 MiB
leased to VMs       4.0 MiB
metadata            2.0 MiB
free                57.0 MiB
used on the medium  8.0 KiB
snapshots           2, 1 of them incomplete (and 1 removed snapshot that is still in use)
disks               3
";
    let mut usage = Usage {
        status: status(),
        by_snapshot: Vec::new(),
    };
    assert_eq!(usage_text(&usage), expected);
    usage.status.holders.push(HolderStatus {
        name: "web".into(),
        pid: 4711,
        start_time_ticks: 1,
        leased_chunks: 2,
        blocks_in_use: 256,
        pinned: vec![3],
    });
    let holders = "
USED BY   PID   IN USE  LEASED CHUNKS  PINNED SNAPSHOTS
web      4711  1.0 MiB              2                 1
";
    assert_eq!(usage_text(&usage), format!("{expected}{holders}"));
    usage.by_snapshot.push(SnapshotEntry {
        id: SnapshotId::new(7).unwrap(),
        kind: SnapshotKind::Vm,
        name: "base".into(),
        parent: None,
        created_unix_ns: 0,
        memory_bytes: 1 << 20,
        maps: Vec::new(),
        frames_mapped: 200,
        frames_new: 200,
        state_bytes: 1,
        identity: Identity::from_bytes([1; 16]).unwrap(),
        incomplete: false,
        foreign: false,
        content_root: None,
        own_bytes: Some(4096),
        shared_bytes: Some(1 << 20),
    });
    let snapshots = "
SNAPSHOT      OWN   SHARED
base      4.0 KiB  1.0 MiB
";
    assert_eq!(
        usage_text(&usage),
        format!("{expected}{snapshots}{holders}")
    );
}

#[test]
fn findings_are_listed_before_the_count() {
    let mut report = CheckReport {
        blocks_checked: 10,
        nodes_checked: 3,
        snapshots_checked: 2,
        ..Default::default()
    };
    let counts = "in 10 blocks, 3 map nodes and 2 snapshots\n";
    assert_eq!(
        check_text(Path::new("/p"), &report),
        format!("/p: no findings {counts}")
    );
    report.findings = vec![
        "block 7 has count 1, 2 references".into(),
        "node 9 is damaged".into(),
    ];
    assert_eq!(
        check_text(Path::new("/p"), &report),
        format!("block 7 has count 1, 2 references\nnode 9 is damaged\n/p: 2 findings {counts}")
    );
}

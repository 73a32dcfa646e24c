use nvvmm_snapshot::{Identity, SnapshotId, SnapshotKind};

use super::*;

fn entry(id: u64, parent: Option<u64>, name: &str, own_bytes: Option<u64>) -> SnapshotEntry {
    SnapshotEntry {
        id: SnapshotId::new(id).unwrap(),
        kind: SnapshotKind::Vm,
        name: name.to_owned(),
        parent: parent.and_then(SnapshotId::new),
        created_unix_ns: 1_795_354_839_000_000_000 + id * 1_000_000_000,
        memory_bytes: 512 << 20,
        maps: Vec::new(),
        frames_mapped: 25_600,
        frames_new: 256,
        state_bytes: 4096,
        identity: Identity::from_bytes([1; 16]).unwrap(),
        incomplete: false,
        foreign: false,
        content_root: None,
        own_bytes,
        shared_bytes: Some(100 << 20),
    }
}

#[test]
fn snapshots_are_drawn_as_a_tree_the_oldest_first() {
    // In no order, and the parent of the last was removed.
    let image = SnapshotEntry {
        kind: SnapshotKind::Process,
        memory_bytes: 12_288,
        ..entry(6, Some(2), "job", Some(8192))
    };
    let snapshots = [
        image,
        entry(5, Some(2), "web-clone", Some(4096)),
        entry(1, None, "base", Some(1 << 20)),
        entry(3, Some(2), "web-2", Some(2 << 20)),
        entry(2, Some(1), "web-1", Some(0)),
        entry(9, Some(7), "other", None),
    ];
    assert_eq!(
        tree_table(&snapshots),
        "NAME             KIND     TAKEN (UTC)             MEMORY      OWN     SHARED\n\
         base             vm       2026-11-22 13:40:40  512.0 MiB  1.0 MiB  100.0 MiB\n\
         └─ web-1         vm       2026-11-22 13:40:41  512.0 MiB      0 B  100.0 MiB\n\
         \x20  ├─ web-2      vm       2026-11-22 13:40:42  512.0 MiB  2.0 MiB  100.0 MiB\n\
         \x20  ├─ web-clone  vm       2026-11-22 13:40:44  512.0 MiB  4.0 KiB  100.0 MiB\n\
         \x20  └─ job        process  2026-11-22 13:40:45   12.0 KiB  8.0 KiB  100.0 MiB\n\
         other            vm       2026-11-22 13:40:48  512.0 MiB        -  100.0 MiB\n"
    );
}

#[test]
fn removals_say_what_was_freed_and_what_waits() {
    let freed = json::snapshot::Removed {
        snapshot: "a".into(),
        freed_bytes: 3 << 20,
        deferred: false,
    };
    assert_eq!(removed_text(&freed), "removed a, freed 3.0 MiB\n");
    let waits = json::snapshot::Removed {
        snapshot: "b".into(),
        freed_bytes: 0,
        deferred: true,
    };
    assert!(removed_text(&waits).starts_with("removed b; a running VM still uses it"));
}

#[test]
fn a_kind_is_the_same_word_in_the_table_and_in_json() {
    for kind in [SnapshotKind::Vm, SnapshotKind::Process] {
        let json = serde_json::to_value(kind).unwrap();
        assert_eq!(json, kind_word(kind));
    }
}

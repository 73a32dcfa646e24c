use nvvmm_snapshot::BlockNo;

use super::*;

fn report() -> ScrubReport {
    ScrubReport {
        blocks_verified: 512,
        digests_made: 256,
        snapshots_done: 2,
        ..ScrubReport::default()
    }
}

#[test]
fn a_clean_scrub_says_what_was_verified_and_what_was_not() {
    assert_eq!(
        scrub_text(Path::new("/p"), &report()),
        "/p: 2.0 MiB verified, 1.0 MiB got digests now, 0 B damaged, in 2 snapshots\n"
    );
    let interrupted = ScrubReport {
        interrupted: true,
        ..report()
    };
    assert!(
        scrub_text(Path::new("/p"), &interrupted).ends_with("interrupted: the rest was not read\n")
    );
}

#[test]
fn damaged_frames_are_named_by_gfn_also_above_the_hole() {
    let frame = |frame, unreadable| DamagedFrame {
        snapshot: "base".into(),
        is_disk: false,
        map: nvvmm_snapshot::MapKind::Memory,
        frame,
        block: BlockNo::new(777),
        unreadable,
    };
    let report = ScrubReport {
        blocks_damaged: 2,
        frames_damaged: 5,
        damaged: vec![frame(0x12, false), frame((3 << 18) + 1, true)],
        findings: vec!["snapshot 'web': its map is damaged".into()],
        ..report()
    };
    assert_eq!(
        scrub_text(Path::new("/p"), &report),
        "snapshot 'web': its map is damaged\n\
         snapshot 'base': frame 0x12 (GFN), in block 777, does not match its digest\n\
         snapshot 'base': frame 0x100001 (GFN), in block 777, cannot be read\n\
         and 3 more damaged frames\n\
         /p: 2.0 MiB verified, 1.0 MiB got digests now, 8.0 KiB damaged, in 2 snapshots\n"
    );
    let json = serde_json::to_value(Scrub::of(Path::new("/p"), &report)).unwrap();
    assert_eq!(json["damaged_frames"][1]["gfn"], 0x10_0001);
    assert_eq!(json["damaged_frames"][1]["frame"], (3 << 18) + 1);
    assert_eq!(json["damaged_frame_count"], 5);
}

#[test]
fn damage_of_disks_is_named_by_disk_and_byte() {
    let name = nvvmm_snapshot::DiskName::new("data").unwrap();
    let damaged = |snapshot: &str, is_disk| DamagedFrame {
        snapshot: snapshot.into(),
        is_disk,
        map: nvvmm_snapshot::MapKind::Disk(name),
        frame: 1 << 20,
        block: BlockNo::new(9),
        unreadable: false,
    };
    let report = ScrubReport {
        frames_damaged: 2,
        damaged: vec![damaged("base", false), damaged("data", true)],
        ..report()
    };
    let text = scrub_text(Path::new("/p"), &report);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "snapshot 'base': disk 'data': byte 4294967296, in block 9, does not match its digest",
            "disk 'data': byte 4294967296, in block 9, does not match its digest",
        ]
    );
    let json = serde_json::to_value(Scrub::of(Path::new("/p"), &report)).unwrap();
    let [first, second] = [0, 1].map(|at| json["damaged_frames"][at].clone());
    assert_eq!(first["snapshot"], "base");
    assert_eq!(first["disk"], "data");
    assert_eq!(first["disk_offset_bytes"], 1u64 << 32);
    assert!(first["gfn"].is_null() && second["snapshot"].is_null());
}

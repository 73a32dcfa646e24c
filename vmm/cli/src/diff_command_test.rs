use nvvmm_snapshot::MapKind;

use super::*;

fn report(different: &[(u64, u64)]) -> DiffReport {
    let different: Vec<FrameRun> = different
        .iter()
        .map(|(frame, frames)| FrameRun {
            map: MapKind::Memory,
            frame: *frame,
            frames: *frames,
        })
        .collect();
    DiffReport {
        frames_shared: 512,
        frames_alike: 1,
        frames_different: different.iter().map(|run| run.frames).sum(),
        different,
        interrupted: false,
    }
}

#[test]
fn frames_are_named_as_the_guest_does() {
    let hole = 1 << 18;
    let report = report(&[(16, 4), (LOW_FRAMES - 1, 3), (LOW_FRAMES + 100, 1)]);
    let difference = Difference::of(SnapshotKind::Vm, &report);
    let named: Vec<(u64, u64)> = difference
        .different
        .iter()
        .map(|r| (r.first, r.frames))
        .collect();
    assert_eq!(
        named,
        [
            (16, 4),
            (LOW_FRAMES - 1, 1),
            (LOW_FRAMES + hole, 2),
            (LOW_FRAMES + hole + 100, 1)
        ]
    );
    let of_process = Difference::of(SnapshotKind::Process, &report);
    assert_eq!(of_process.different.len(), 3);
}

#[test]
fn the_table_is_followed_by_the_sum() {
    let difference = Difference::of(SnapshotKind::Vm, &report(&[(16, 256)]));
    assert_eq!(
        difference.text(["a", "b"]),
        "GFN                    FRAMES     SIZE\n\
         0x00000010-0x0000010f     256  1.0 MiB\n\
         \n\
         a and b: 1.0 MiB differ, 2.0 MiB are in blocks of both, 4.0 KiB hold the same in blocks \
         of their own\n"
    );
    let same = Difference::of(SnapshotKind::Vm, &report(&[]));
    assert!(same.text(["a", "a"]).starts_with("a and a: 0 B differ, "));
}

#[test]
fn blocks_of_disks_are_told_with_the_disks_name() {
    let data = MapKind::Disk(nvvmm_snapshot::DiskName::new("data").unwrap());
    let mut report = report(&[(16, 4)]);
    report.different.push(FrameRun {
        map: data,
        frame: LOW_FRAMES + 5,
        frames: 2,
    });
    let difference = Difference::of(SnapshotKind::Vm, &report);
    let text = difference.text(["a", "b"]);
    let rows: Vec<&str> = text.lines().take(3).collect();
    assert!(rows[0].ends_with("OF"), "{text}");
    assert!(rows[1].ends_with("memory"), "{text}");
    // No hole of the guest's addresses is in a disk.
    assert!(
        rows[2].starts_with("0x000c0005-") && rows[2].ends_with("data"),
        "{text}"
    );
    let json = difference.json(["a", "b"]);
    assert_eq!(json.different[1].disk.as_deref(), Some("data"));
    assert_eq!(json.different[1].first_frame, LOW_FRAMES + 5);
}

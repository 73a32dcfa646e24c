use nvvmm::control::BalloonReport;

use super::*;

fn memory(released_bytes: u64) -> MemoryStatus {
    MemoryStatus {
        balloon: Some(BalloonReport {
            reports_free: true,
            released_bytes,
            ..BalloonReport::default()
        }),
        ..MemoryStatus::default()
    }
}

#[test]
fn the_wait_is_over_when_no_report_has_come_for_longer_than_one_takes() {
    let begun = Instant::now();
    let mut seen = Seen::of(&memory(0), begun);
    assert!(!seen.is_over(&memory(0), begun + QUIET / 2));
    let report = begun + QUIET - POLL;
    assert!(!seen.is_over(&memory(1), report));
    assert!(!seen.is_over(&memory(1), report + QUIET / 2));
    assert!(seen.is_over(&memory(1), report + QUIET));
}

#[test]
fn a_guest_that_reports_nothing_is_not_waited_for() {
    let begun = Instant::now();
    for silent in [
        MemoryStatus::default(),
        MemoryStatus {
            balloon: Some(BalloonReport::default()),
            ..MemoryStatus::default()
        },
    ] {
        assert!(Seen::of(&silent, begun).is_over(&silent, begun));
    }
}

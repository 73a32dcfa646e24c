use nvvmm::ErrorKind;

use super::*;

fn status() -> RingStatus {
    RingStatus {
        running: true,
        failure: None,
        every_us: 10_000,
        keep: 8,
        taken: 120,
        missed: 2,
        newest: Some("web@120".into()),
        kept: 8,
        lasted_us: 1.2e6,
        pause_us_mean: 640.0,
        pause_us_max: 2_100.0,
        held_us_max: 1_240.0,
        total_us_mean: 3_000.0,
        phases_mean: Vec::new(),
    }
}

#[test]
fn a_ring_on_one_line() {
    let counted =
        "120 taken (2 missed), 8 kept, the newest is web@120; paused for 640 µs (at most 2.10 ms)";
    let line = ps_line("web", &status());
    assert_eq!(line, format!("web: checkpointed every 10ms; {counted}\n"));
    let unhurried = RingStatus {
        every_us: 0,
        missed: 0,
        taken: 0,
        newest: None,
        ..status()
    };
    assert_eq!(
        ps_line("web", &unhurried),
        "web: checkpointed continuously; 0 taken\n"
    );
    let ended = RingStatus {
        running: false,
        ..status()
    };
    assert_eq!(
        ps_line("web", &ended),
        "",
        "its line does not stay for ever"
    );
    let failed = RingStatus {
        failure: Some(VmError::new(ErrorKind::PoolFull, "the pool is full")),
        ..ended
    };
    assert_eq!(
        ps_line("web", &failed),
        "web: the ring of checkpoints has ended: the pool is full\n"
    );
}

#[test]
fn what_a_rewind_did() {
    let mut report = RewindReport {
        vm: "web".into(),
        snapshot: "web@7".into(),
        total_us: 41_000.0,
        stopped_us: 39_500.0,
        paused: false,
        phases: Vec::new(),
    };
    assert_eq!(
        rewind_text(&report),
        "web is at web@7 again: stopped for 39.50 ms, 41.00 ms in all\n"
    );
    report.paused = true;
    assert!(rewind_text(&report).starts_with("web is at web@7 again, and is paused: "));
}

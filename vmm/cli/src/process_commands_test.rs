use super::*;

#[test]
fn a_capture_says_how_long_what_stood_still_and_what_was_copied() {
    let report = CaptureReport {
        name: "job-1".into(),
        pid: 4711,
        processes: 1,
        threads: 3,
        frozen_us: 1500.0,
        total_us: 4200.0,
        rounds: 2,
        pages: 1024,
        frames_given: 256,
        frames_copied: 0,
        state_bytes: 2048,
        metadata_blocks: 5,
    };
    let expected =
        "snapshot job-1 of process 4711 in web (1 process, 3 threads): frozen for 1.50 ms, 4.20 \
         ms in all
  memory 4.0 MiB shared by reference (1.0 MiB of it new), 0 B copied
  state 2.0 KiB, metadata 20.0 KiB
";
    let text = format!(
        "{}\n{}",
        capture_line("web", &report),
        capture_details(&report)
    );
    assert_eq!(text, expected);
}

#[test]
fn a_check_says_what_comes_back_otherwise() {
    let checked = Checked {
        processes: 1,
        threads: 2,
        remarks: "process 7, fd 1 leads outside (/dev/console): the restart gives it another one"
            .into(),
    };
    let expected = "process 7 in web can be captured (1 process, 2 threads)
  process 7, fd 1 leads outside (/dev/console): the restart gives it another one
";
    assert_eq!(check_text("web", 7, &checked), expected);
}

#[test]
fn a_restart_says_where_it_runs_and_what_was_copied() {
    let report = RestartReport {
        name: "job-1".into(),
        vm: "web".into(),
        pid: 4711,
        processes: 2,
        threads: 2,
        elapsed_us: 900.0,
        populate_us: 300.0,
        place_us: 200.0,
        pages_reserved: 0,
        total_us: 1000.0,
        pages_adopted: 512,
        pages_copied: 1,
        pages_shown: 0,
    };
    let expected = "process 4711 of job-1 runs in web (2 processes, 2 threads) after 1.00 ms
  memory 2.0 MiB by reference, 4.0 KiB copied
";
    let text = format!("{}\n{}", restart_line(&report), restart_details(&report));
    assert_eq!(text, expected);
}

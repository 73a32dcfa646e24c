//! Restarts whose memory is mapped from a file that holds the image: what an agent does with a
//! window.

use std::io::Write;

use nvvmm_process::{CaptureOptions, FreezeEnd, WindowPages};

use crate::harness::{Subject, can_run};

#[test]
fn processes_go_on_with_memory_of_a_file_and_leave_the_file_as_it_is() {
    if !can_run() {
        return;
    }
    let mut mapped = 0;
    for scenario in [
        "anonymous",
        "huge-pages",
        "private-file",
        "protected",
        "threads",
        "tree",
    ] {
        let mut subject = Subject::start(scenario);
        let options = CaptureOptions {
            tree: scenario == "tree",
            ..CaptureOptions::default()
        };
        let captured = subject.capture(options, FreezeEnd::Kill);
        let (image, pages) =
            captured.unwrap_or_else(|error| panic!("{scenario}: capture: {error}"));
        subject.reap_killed(&image);
        // Each process has its own copies of what several have in common.
        let mappings = (image.processes.iter()).flat_map(|process| &process.mappings);
        let runs = mappings.flat_map(|mapping| &mapping.pages);
        let all: u64 = runs.map(|run| run.pages).sum();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(pages.bytes()).unwrap();
        for _ in 0..2 {
            let mut window = WindowPages::new(file.reopen().unwrap());
            subject.restart(&image, &mut window);
            mapped += all - window.copied();
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", subject.pid)).unwrap();
            let of_file = maps.contains(file.path().to_str().unwrap());
            eprintln!(
                "{scenario}: {} of {all} pages copied, {of_file}",
                window.copied()
            );
            subject.finish();
        }
        assert!(
            std::fs::read(file.path()).unwrap() == pages.bytes(),
            "{scenario} wrote the image"
        );
    }
    assert!(mapped > 0);
}

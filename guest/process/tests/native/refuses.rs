//! Refusals, by name, of captures and restarts: the process continues.

use nvvmm_process::{CaptureOptions, Error, FreezeEnd, Image, RestartOptions, restart};

use crate::for_each_refusal;
use crate::harness::{Subject, can_run};
use crate::scenarios::is_refused;

/// Both the check before a freeze and the one inside must refuse the scenario; the process goes on,
/// and ends well.
fn refused(scenario: &str, place: &str, reason: &str) {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start(scenario);
    for found in [
        subject.check(),
        subject
            .capture_unchecked(CaptureOptions::default())
            .map(drop),
    ] {
        let lines = expect_refusal(found, reason);
        assert!(
            is_refused(&lines, &subject.pid.to_string(), place, reason),
            "{lines}"
        );
    }
    subject.finish();
}

/// The text of the refusal.
fn expect_refusal<T>(result: Result<T, Error>, reason: &str) -> String {
    match result {
        Err(error @ Error::Refused(_)) => {
            let lines = error.to_string();
            assert!(
                lines.contains(reason),
                "refused, but not because it {reason}: {lines}"
            );
            lines
        }
        Err(error) => panic!("failed otherwise: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

macro_rules! refuses {
    ($($test:ident: $scenario:literal, $place:literal, $reason:literal,)*) => {
        $(
            #[test]
            fn $test() {
                refused($scenario, $place, $reason);
            }
        )*
    };
}

for_each_refusal!(refuses);

/// Refuses a state that shows only when the process stands still: the check before finds nothing.
fn refused_when_it_stands_still(scenario: &str, reason: &str) {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start(scenario);
    subject.check().expect("nothing shows yet");
    let found = subject.capture_unchecked(CaptureOptions::default());
    expect_refusal(found, reason);
    subject.finish();
}

#[test]
fn confinement_by_landlock() {
    refused_when_it_stands_still("landlock-files", "is confined by Landlock");
    refused_when_it_stands_still("landlock-network", "is confined by Landlock");
}

#[test]
fn keys_of_its_own() {
    refused_when_it_stands_still("keys", "has keys of its own");
}

#[test]
fn system_calls_that_are_dispatched() {
    refused_when_it_stands_still("dispatched-calls", "has its system calls dispatched");
}

/// A lock that somebody else has by the time of a restart.
#[test]
fn restart_without_a_lock() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("file-locks");
    let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
    let (image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    for name in ["whole", "r", "own"] {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(subject.path(name))
            .expect("a file");
        if name == "whole" {
            file.lock().expect("a lock");
        } else {
            let lock = nix::libc::flock {
                l_type: nix::libc::F_WRLCK as i16,
                l_whence: 0,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).expect("a lock");
        }
        let refused = restart(&image, &RestartOptions::default(), None, &mut pages);
        expect_refusal(
            refused,
            "had a lock of a file, and somebody else has it now",
        );
    }
    subject.restart(&image, &mut pages);
    subject.finish();
}

/// A restart refuses a file that was mapped and has changed, a kernel other than the image's, and a
/// number that is in use.
#[test]
fn restart_elsewhere() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("mapped-file");
    let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Thaw);
    let (mut image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    let mut again = |image: &Image| restart(image, &RestartOptions::default(), None, &mut pages);
    expect_refusal(again(&image), "cannot have its number back: it is in use");
    subject.kill();
    std::fs::write(subject.path("mapped"), vec![2; 4096]).expect("a file");
    expect_refusal(again(&image), "mapped, which was changed");
    image.kernel.release.push_str("-other");
    expect_refusal(again(&image), "ran on the kernel");
}

/// In another boot the same file may have another number: it is told by its size and time.
#[test]
fn restart_in_another_boot() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("mapped-file");
    let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
    let (mut image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    let (mapped, copy) = (subject.path("mapped"), subject.path("copy"));
    let modified = std::fs::metadata(&mapped).and_then(|found| found.modified());
    std::fs::copy(&mapped, &copy).expect("a copy");
    let file = std::fs::File::options()
        .write(true)
        .open(&copy)
        .expect("a copy");
    file.set_modified(modified.expect("its time"))
        .expect("its time");
    std::fs::rename(&copy, &mapped).expect("a replacement");
    let refused = restart(&image, &RestartOptions::default(), None, &mut pages);
    expect_refusal(refused, "mapped, which was changed, replaced or deleted");
    image.boot.push_str("-other");
    subject.restart(&image, &mut pages);
    subject.finish();
}

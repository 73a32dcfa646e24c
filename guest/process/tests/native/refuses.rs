//! What cannot be held or had back is refused by name, and the process goes on.

use nvvmm_process::{Afterwards, CaptureOptions, Error, Image, Place, Refusal, RestartOptions, restart};

use crate::harness::{Subject, can_run};

/// Both the check before a freeze and the one inside must refuse the scenario; the process goes on, and ends well.
fn refused(scenario: &str, reason: &str) -> Option<Refusal> {
    if !can_run() {
        return None;
    }
    let mut subject = Subject::start(scenario);
    let before = expect_refusal(subject.check(), reason);
    let inside = expect_refusal(subject.capture_unchecked(CaptureOptions::default()), reason);
    assert_eq!(before, inside);
    assert_eq!(before.pid, subject.pid);
    subject.finish();
    Some(before)
}

fn expect_refusal<T>(result: Result<T, Error>, reason: &str) -> Refusal {
    match result {
        Err(Error::Refused(refusals)) => {
            let found = refusals.iter().find(|refusal| refusal.reason.contains(reason));
            found
                .unwrap_or_else(|| panic!("refused, but not because it {reason}: {refusals:?}"))
                .clone()
        }
        Err(error) => panic!("failed otherwise: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

macro_rules! refuses {
    ($($test:ident: $scenario:literal, $reason:literal, $place:pat,)*) => {
        $(
            #[test]
            fn $test() {
                if let Some(refusal) = refused($scenario, $reason) {
                    assert!(matches!(refusal.place, $place), "{refusal:?}");
                }
            }
        )*
    };
}

refuses! {
    connected_socket: "connected-socket", "is a socket", Place::Descriptor(3..),
    io_uring: "io-uring", "io_uring", Place::Descriptor(3..),
    epoll: "epoll", "eventpoll", Place::Descriptor(3..),
    memfd: "memfd", "is a memfd", Place::Descriptor(3..),
    device_mapping: "device-mapping", "is a device", Place::Address(4096..),
    shared_anonymous_memory: "shared-anonymous", "is shared anonymous memory", Place::Address(4096..),
    system_v_memory: "system-v-memory", "is System V shared memory", Place::Address(4096..),
    deleted_file: "deleted-file", "was deleted", Place::Descriptor(3..),
    deleted_mapped_file: "deleted-mapping", "was deleted", Place::Address(4096..),
    file_lock: "file-lock", "has a file lock", Place::Descriptor(3..),
    foreign_namespace: "foreign-namespace", "is in another namespace (ns/uts)", Place::Process,
    posix_timer: "posix-timer", "has POSIX timers", Place::Process,
    pipe_with_an_outside_end: "outside-pipe", "is a pipe that process", Place::Descriptor(3..),
    children_without_tree: "child", "has children", Place::Process,
}

#[test]
fn traced_process() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("plain");
    let tracer = nvvmm_process::Frozen::new(subject.pid, false).expect("a freeze");
    let refusal = expect_refusal(subject.check(), "is traced by");
    assert_eq!(refusal.place, Place::Thread(subject.pid));
    tracer.end(Afterwards::Thaw).expect("a thaw");
    subject.finish();
}

/// A restart refuses a file that was mapped and has changed, a kernel other than the image's, and a number that is in use.
#[test]
fn restart_elsewhere() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("mapped-file");
    let captured = subject.capture(CaptureOptions::default(), Afterwards::Thaw);
    let (mut image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    let mut again = |image: &Image| restart(image, &RestartOptions::default(), &mut pages);
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
    let captured = subject.capture(CaptureOptions::default(), Afterwards::Kill);
    let (mut image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    let (mapped, copy) = (subject.path("mapped"), subject.path("copy"));
    let modified = std::fs::metadata(&mapped).and_then(|found| found.modified());
    std::fs::copy(&mapped, &copy).expect("a copy");
    let file = std::fs::File::options().write(true).open(&copy).expect("a copy");
    file.set_modified(modified.expect("its time")).expect("its time");
    std::fs::rename(&copy, &mapped).expect("a replacement");
    let refused = restart(&image, &RestartOptions::default(), &mut pages);
    expect_refusal(refused, "mapped, which was changed, replaced or deleted");
    image.boot.push_str("-other");
    subject.restart(&image, &mut pages);
    subject.finish();
}

//! Refusals, by name, of captures and restarts: the process continues.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use nvvmm_process::image::{HeldKind, What};
use nvvmm_process::{
    CaptureOptions, CopiedPages, Error, FreezeEnd, Image, RestartOptions, Restarted, restart,
};

use crate::for_each_refusal;
use crate::harness::{Subject, can_run, one_at_a_time, with_terminals};
use crate::scenarios::is_refused;

/// Both the check before a freeze and the one inside must refuse the scenario; the process goes on,
/// and ends well.
fn refused(scenario: &str, place: &str, reason: &str) {
    if !can_run() {
        return;
    }
    let _terminals = scenario.contains("terminal").then(with_terminals);
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

/// Restarts it. A process that another test forks meanwhile would have the files of the restart
/// open for a moment, and their locks.
fn restart_alone(image: &Image, pages: &mut CopiedPages) -> Result<Restarted, Error> {
    let _alone = one_at_a_time();
    restart(image, &RestartOptions::default(), None, pages)
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

/// A check also tells of what a restart gives back in another state.
#[test]
fn a_connection_that_comes_back_reset_is_told_before() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("reset-connection");
    let checked = {
        let _alone = one_at_a_time();
        nvvmm_process::check(subject.pid, CaptureOptions::default())
    };
    let checked = checked.unwrap_or_else(|error| panic!("check: {error}"));
    assert_eq!(checked.counts(), (1, 1));
    let remarks = checked.remarks();
    let mut lines = remarks.iter().map(ToString::to_string);
    assert!(
        remarks.len() == 2 && lines.all(|line| line.ends_with("it comes back reset")),
        "{remarks:?}"
    );
    subject.finish();
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
        // A process that another test has just forked has this lock, and those of the restart.
        let _alone = one_at_a_time();
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

/// Addresses that somebody else has by the time of a restart: a path, and a port.
#[test]
fn restart_without_an_address() {
    if !can_run() {
        return;
    }
    let killed = |scenario: &str| {
        let mut subject = Subject::start(scenario);
        let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
        let (image, pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
        subject.reap_killed(&image);
        (subject, image, pages)
    };
    let (mut subject, image, mut pages) = killed("unix-sockets");
    let path = subject.path("socket");
    std::fs::remove_file(&path).expect("a socket");
    let other = UnixListener::bind(&path).expect("a socket");
    let mut again = |image: &Image| restart_alone(image, &mut pages);
    expect_refusal(again(&image), "which somebody else has now");
    assert!(path.exists(), "it removed another's socket");
    drop(other);
    std::fs::remove_file(&path).expect("a socket");
    std::fs::write(&path, "").expect("a file");
    expect_refusal(again(&image), "where there is another file now");
    std::fs::remove_file(&path).expect("a file");
    subject.restart(&image, &mut pages);
    subject.finish();

    let (mut subject, image, mut pages) = killed("internet-sockets");
    let mut ports = image.files.iter().filter_map(|file| match &file.what {
        What::Socket(socket) => socket.port().filter(|port| *port != 0),
        _ => None,
    });
    let port = ports.next().expect("a port");
    let other = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    let refused = restart_alone(&image, &mut pages);
    expect_refusal(refused, "its socket: somebody else has it now");
    drop(other);
    subject.restart(&image, &mut pages);
    subject.finish();
}

/// A segment of System V memory that somebody has made by the time of a restart, with the number,
/// key, size and permissions of the captured one. One that the restart itself has made is taken.
#[test]
fn restart_with_the_number_of_another_segment() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("segments");
    let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
    let (image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    let left = image.held.iter().find_map(|file| match file.kind {
        HeldKind::Segment { id, key, removed } if !removed => Some((id, key, file)),
        _ => None,
    });
    let (id, key, file) = left.expect("a segment with a key");
    assert_eq!((file.mode, file.owner.0), (0o640, 1234));
    let _alone = one_at_a_time();
    remove_segment(id);
    make_segment(id, key, file.size_bytes);
    let mut again = || restart(&image, &RestartOptions::default(), None, &mut pages);
    let words = expect_refusal(again(), "what has that number now is another one");
    let own = format!("which process {} has made", std::process::id());
    assert!(words.contains(&own), "{words}");
    remove_segment(id);
    // Made by the first restart, left behind, and taken by the second one.
    for _ in 0..2 {
        again().unwrap_or_else(|error| panic!("restart: {error}"));
        subject.kill();
    }
    again().unwrap_or_else(|error| panic!("restart: {error}"));
    subject.is_restarted();
    subject.finish();
}

fn remove_segment(id: i32) {
    // SAFETY: the call takes numbers only.
    let removed = unsafe { nix::libc::shmctl(id, nix::libc::IPC_RMID, std::ptr::null_mut()) };
    assert_eq!(removed, 0, "{}", std::io::Error::last_os_error());
}

fn make_segment(id: i32, key: i32, size_bytes: u64) {
    std::fs::write("/proc/sys/kernel/shm_next_id", id.to_string()).expect("root");
    let flags = nix::libc::IPC_CREAT | nix::libc::IPC_EXCL | 0o640;
    // SAFETY: the calls take numbers, and the kernel reads what it has written.
    unsafe {
        assert_eq!(nix::libc::shmget(key, size_bytes as usize, flags), id);
        let mut found: nix::libc::shmid_ds = std::mem::zeroed();
        assert_eq!(nix::libc::shmctl(id, nix::libc::IPC_STAT, &mut found), 0);
        found.shm_perm.uid = 1234;
        assert_eq!(nix::libc::shmctl(id, nix::libc::IPC_SET, &mut found), 0);
    }
}

/// The number of a terminal that somebody else has by the time of a restart.
#[test]
fn restart_without_the_number_of_a_terminal() {
    if !can_run() {
        return;
    }
    let _terminals = with_terminals();
    let mut subject = Subject::start("terminals");
    let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
    let (image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    let other = nix::pty::posix_openpt(nix::fcntl::OFlag::O_RDWR).expect("a terminal");
    let refused = restart_alone(&image, &mut pages);
    expect_refusal(refused, "whose number somebody else has now");
    drop(other);
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
    let mut again = |image: &Image| restart_alone(image, &mut pages);
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
    let refused = restart_alone(&image, &mut pages);
    expect_refusal(refused, "mapped, which was changed, replaced or deleted");
    image.boot.push_str("-other");
    subject.restart(&image, &mut pages);
    subject.finish();
}

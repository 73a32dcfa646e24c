//! Processes whose children come and go, and numbers that others keep in use.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use nvvmm_process::{
    CaptureOptions, CopiedPages, Error, FreezeEnd, Image, RestartOptions, check,
    freeze_and_capture, restart,
};

use crate::harness::{can_run, one_at_a_time, spawn_alone};

/// Only a test that hangs comes near it.
const PATIENCE: Duration = Duration::from_secs(120);
const TREE: CaptureOptions = CaptureOptions {
    tree: true,
    external_stdio: false,
    frees_numbers: false,
};

/// Starts a shell in a session of its own.
fn shell(script: &str) -> i32 {
    nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: makes one system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    spawn_alone(&mut command)
}

fn capture(
    pid: i32,
    options: CaptureOptions,
    afterwards: FreezeEnd,
) -> Result<(Image, CopiedPages), Error> {
    let _alone = one_at_a_time();
    check(pid, options)?;
    let mut pages = CopiedPages::default();
    let (frozen, captured) = freeze_and_capture(pid, options, &mut pages)?;
    frozen.end(afterwards)?;
    Ok((captured.image, pages))
}

/// The session of a shell. It ends with the test, also with one that fails: a loop of short-lived
/// programs would take a processor from all that follows.
struct Session(i32);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(-self.0), Signal::SIGKILL);
        // Those of it that are or become children of this process.
        while waitpid(Pid::from_raw(-self.0), None).is_ok() {}
    }
}

fn reap(image: &Image) {
    let ended = image.ended.iter().map(|child| child.pid);
    for pid in (image.processes.iter().map(|process| process.pid)).chain(ended) {
        waitpid(Pid::from_raw(pid), None).expect("its end");
    }
}

#[test]
fn shells_whose_children_come_and_go_are_captured_and_go_on() {
    if !can_run() {
        return;
    }
    for script in [
        "while :; do /bin/true; done",
        "while :; do echo x | cat; done",
        "while :; do (sleep 0.002 | cat) | cat; done",
    ] {
        let pid = shell(script);
        let session = Session(pid);
        for _ in 0..4 {
            let captured = capture(pid, TREE, FreezeEnd::Thaw);
            let (image, _) = captured.unwrap_or_else(|error| panic!("{script}: {error}"));
            assert_eq!(image.processes[0].pid, pid);
        }
        let (image, mut pages) = capture(pid, TREE, FreezeEnd::Kill).expect("a capture");
        reap(&image);
        {
            let _alone = one_at_a_time();
            restart(&image, &RestartOptions::default(), None, &mut pages)
                .unwrap_or_else(|error| panic!("{script}: restart: {error}"));
        }
        let captured = capture(pid, TREE, FreezeEnd::Thaw);
        captured.unwrap_or_else(|error| panic!("{script}: again: {error}"));
        drop(session);
    }
}

/// Nobody could restart the leader: its number stays in use as long as the other process lives.
#[test]
fn a_leader_whose_number_others_keep_is_not_killed() {
    if !can_run() {
        return;
    }
    let pid = shell("(sleep 1000 &); exec sleep 1001");
    let session = Session(pid);
    let began = Instant::now();
    while std::fs::read(format!("/proc/{pid}/comm")).expect("it runs") != b"sleep\n" {
        assert!(began.elapsed() < PATIENCE, "the shell is no sleep yet");
        thread::sleep(Duration::from_millis(1));
    }
    let killed = CaptureOptions {
        frees_numbers: true,
        ..TREE
    };
    // The other one is still a shell at first.
    let is_named = || {
        let refused = check(pid, killed).map(drop).err();
        refused.is_some_and(|error| error.to_string().contains(" (sleep), which"))
    };
    while !is_named() {
        assert!(
            began.elapsed() < PATIENCE,
            "the other shell is no sleep yet"
        );
    }
    let refused = [
        check(pid, killed).map(drop),
        freeze_and_capture(pid, killed, &mut CopiedPages::default()).map(drop),
    ];
    let goes_on = capture(pid, TREE, FreezeEnd::Thaw);
    drop(session);
    for error in refused {
        let words = error.expect_err("it is refused").to_string();
        assert!(words.contains("leads the session of process"), "{words}");
        assert!(
            words.contains(" (sleep)") && words.contains("setsid"),
            "{words}"
        );
    }
    goes_on.expect("its number need not become free");
}

/// The parent of a killed process waits for it, and at the same moment it is restarted. The kernel
/// frees a number later than it removes its process from /proc (Linux 6.15 and newer).
#[test]
fn a_number_is_waited_for_when_a_process_is_restarted_at_once() {
    if !can_run() {
        return;
    }
    for _ in 0..10 {
        let pid = shell("sleep 1000; :");
        let session = Session(pid);
        let (image, mut pages) = capture(
            pid,
            CaptureOptions {
                frees_numbers: true,
                ..TREE
            },
            FreezeEnd::Kill,
        )
        .unwrap_or_else(|error| panic!("capture: {error}"));
        let numbers: Vec<i32> = image.processes.iter().map(|process| process.pid).collect();
        let parent = thread::spawn({
            let image = image.clone();
            move || reap(&image)
        });
        let began = Instant::now();
        while numbers
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
        {
            assert!(began.elapsed() < PATIENCE, "they do not end");
            std::hint::spin_loop();
        }
        {
            let _alone = one_at_a_time();
            restart(&image, &RestartOptions::default(), None, &mut pages)
                .unwrap_or_else(|error| panic!("restart: {error}"));
        }
        parent.join().expect("a parent");
        drop(session);
    }
}

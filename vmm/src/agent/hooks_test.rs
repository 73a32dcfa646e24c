use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use nvvmm_protocol::greet;

use super::*;
use crate::control::RuntimeDir;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

/// A guest with hooks, and the log that they write.
struct Guest {
    directory: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("hooks")).unwrap();
        Self { directory }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn hook(&self, name: &str, mode: u32, then: &str) {
        let path = self.directory.path().join("hooks").join(name);
        let log = self.log_path();
        let say = format!("echo {name} $1 $NVVMM_SNAPSHOT >>{}", log.display());
        fs::write(&path, format!("#!/bin/sh\n{say}\n{then}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn paths(&self) -> VmRuntimePaths {
        let directory = self.directory.path().join("runtime");
        RuntimeDir::at(&directory).unwrap().paths("vm")
    }

    /// Plays device and agent for one command: runs the program that is asked for.
    fn agent(&self) -> JoinHandle<()> {
        let listener = UnixListener::bind(&self.paths().vsock).unwrap();
        let hooks = self.directory.path().join("hooks");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream.write_all(b"OK 1073741824\n").unwrap();
            greet(&stream).unwrap();
            let Ok(ToAgent::Exec(exec)) = receive(&stream) else {
                panic!("no program");
            };
            carry(&exec, &hooks, &stream);
        })
    }
}

/// Runs a program as the agent does: in a group of its own, which is hung up on when the host goes
/// away.
fn carry(exec: &Exec, hooks: &Path, stream: &UnixStream) {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    let mut command = Command::new(text(&exec.command[0]));
    command.args(exec.command[1..].iter().map(text));
    command.envs(
        exec.environment
            .iter()
            .map(|(name, value)| (text(name), text(value))),
    );
    command.env("NVVMM_SNAPSHOT_HOOKS", hooks).process_group(0);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let group = Pid::from_raw(child.id() as i32);
    let (mut output, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut input, from_host) = (child.stdin.take(), stream.try_clone().unwrap());
    let input = thread::spawn(move || {
        while let Ok(ToAgent::End) = receive(&from_host) {
            input = None;
        }
        if input.is_some() {
            let _ = killpg(group, Signal::SIGHUP);
        }
    });
    let mut bytes = [0; 512];
    while let Ok(len @ 1..) = output.read(&mut bytes) {
        let _ = send(stream, &FromAgent::Data(bytes[..len].to_vec()));
    }
    let mut words = Vec::new();
    errors.read_to_end(&mut words).unwrap();
    let _ = send(stream, &FromAgent::ErrorData(words));
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), None, "the shell goes on");
    let _ = send(
        stream,
        &FromAgent::Exited(Ended::Code(status.code().unwrap())),
    );
    input.join().unwrap();
}

#[test]
fn hooks_run_before_in_their_order_and_after_in_the_opposite_one() {
    let guest = Guest::new();
    guest.hook("10-a", 0o755, "");
    guest.hook("20-b", 0o755, "");
    guest.hook("30-off", 0o644, "");
    let agent = guest.agent();
    let hooks = SnapshotHooks::before(&guest.paths(), "s1", LONG).unwrap();
    assert_eq!(guest.log(), "10-a before s1\n20-b before s1\n");
    hooks.unwrap().after().unwrap();
    agent.join().unwrap();
    let all = "10-a before s1\n20-b before s1\n20-b after s1\n10-a after s1\n";
    assert_eq!(guest.log(), all);
}

#[test]
fn a_guest_without_hooks_is_not_waited_for() {
    let guest = Guest::new();
    guest.hook("30-off", 0o644, "");
    let agent = guest.agent();
    assert!(
        SnapshotHooks::before(&guest.paths(), "s1", LONG)
            .unwrap()
            .is_none()
    );
    agent.join().unwrap();
    assert_eq!(guest.log(), "");
}

#[test]
fn a_hook_that_fails_refuses_in_its_own_words_and_those_begun_go_on() {
    let guest = Guest::new();
    guest.hook("10-a", 0o755, "");
    guest.hook(
        "20-b",
        0o755,
        "[ $1 = after ] || { echo the disk is gone >&2; exit 7; }",
    );
    guest.hook("30-c", 0o755, "");
    let agent = guest.agent();
    let error = SnapshotHooks::before(&guest.paths(), "s1", LONG).unwrap_err();
    agent.join().unwrap();
    assert_eq!(error.kind, ErrorKind::Refused);
    for words in ["20-b before: exit status 7", "the disk is gone"] {
        assert!(error.message.contains(words), "{error:?}");
    }
    assert!(error.remedy.unwrap().contains("--no-hooks"));
    let all = "10-a before s1\n20-b before s1\n20-b after s1\n10-a after s1\n";
    assert_eq!(guest.log(), all, "30-c was not begun");
}

#[test]
fn a_hook_that_takes_too_long_is_hung_up_on_and_those_begun_go_on() {
    let guest = Guest::new();
    guest.hook("10-a", 0o755, "");
    guest.hook("20-b", 0o755, "[ $1 = after ] || exec sleep 600");
    let agent = guest.agent();
    let error = SnapshotHooks::before(&guest.paths(), "s1", SHORT).unwrap_err();
    assert!(error.message.contains("took longer than"), "{error:?}");
    assert!(error.remedy.unwrap().contains("--hooks-timeout"));
    agent.join().unwrap();
    // On a slow machine the second one was not begun.
    let log = guest.log();
    assert!(log.ends_with("10-a after s1\n"), "{log}");
    assert!(
        !log.contains("20-b before") || log.contains("20-b after"),
        "{log}"
    );
}

#[test]
fn a_hook_that_misses_the_first_hang_up_is_hung_up_on_again() {
    let guest = Guest::new();
    // As a program does that is just beginning.
    let deaf = "trap '' HUP; sleep 3; trap - HUP; exec sleep 600";
    guest.hook("10-a", 0o755, &format!("[ $1 = after ] || {{ {deaf}; }}"));
    let agent = guest.agent();
    SnapshotHooks::before(&guest.paths(), "s1", SHORT).unwrap_err();
    agent.join().unwrap();
    assert_eq!(guest.log(), "10-a before s1\n10-a after s1\n");
}

/// So it is in a restored copy, and when the command is killed.
#[test]
fn a_stream_that_breaks_has_the_hooks_go_on() {
    let guest = Guest::new();
    guest.hook("10-a", 0o755, "");
    let agent = guest.agent();
    let hooks = SnapshotHooks::before(&guest.paths(), "s1", LONG).unwrap();
    drop(hooks);
    agent.join().unwrap();
    assert_eq!(guest.log(), "10-a before s1\n10-a after s1\n");
}

#[test]
fn a_hook_that_fails_afterwards_is_told() {
    let guest = Guest::new();
    guest.hook("10-a", 0o755, "");
    guest.hook(
        "20-b",
        0o755,
        "[ $1 = before ] || { echo still frozen >&2; exit 1; }",
    );
    let agent = guest.agent();
    let hooks = SnapshotHooks::before(&guest.paths(), "s1", LONG).unwrap();
    let error = hooks.unwrap().after().unwrap_err();
    agent.join().unwrap();
    assert!(error.message.contains("still frozen"), "{error:?}");
    assert!(guest.log().ends_with("20-b after s1\n10-a after s1\n"));
}

#[test]
fn a_guest_that_talks_without_end_is_refused() {
    let guest = Guest::new();
    let listener = UnixListener::bind(&guest.paths().vsock).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        stream.write_all(b"OK 1073741824\n").unwrap();
        greet(&stream).unwrap();
        assert!(matches!(receive(&stream), Ok(ToAgent::Exec(_))));
        while send(&stream, &FromAgent::Data(vec![b'x'; 4096])).is_ok() {}
    });
    let error = SnapshotHooks::before(&guest.paths(), "s1", LONG).unwrap_err();
    assert!(error.message.contains("another request"), "{error}");
    agent.join().unwrap();
}

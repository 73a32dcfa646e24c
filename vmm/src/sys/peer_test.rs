use std::fs::File;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::*;

#[test]
fn a_connection_names_the_process_that_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    assert_eq!(peer_pid(&stream), Some(std::process::id()));
    let process = NamedProcess::listening_for(&stream).unwrap();
    assert_eq!(process.pid(), std::process::id());
}

/// A process that has a lock on a file until it ends.
fn locked_by(path: &std::path::Path) -> Child {
    let child = Command::new("flock")
        .arg("--no-fork")
        .arg(path)
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while flock_holder(&path.metadata().unwrap()).unwrap().is_none() {
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_lock_names_the_process_that_has_it_which_can_be_ended_by_that() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    File::create(&path).unwrap();
    let found = path.metadata().unwrap();
    assert_eq!(flock_holder(&found).unwrap(), None);
    let own = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
    assert_eq!(flock_holder(&found).unwrap(), Some(std::process::id()));
    drop(own);
    let mut child = locked_by(&path);
    let process = NamedProcess::locking(&found).unwrap();
    assert_eq!(process.pid(), child.id());
    process.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(process.kill(), Err(PeerError::Ended)));
}

#[test]
fn lines_of_other_locks_name_nobody() {
    let found = File::open("/proc/self/exe").unwrap().metadata().unwrap();
    let (major, minor) = (libc::major(found.dev()), libc::minor(found.dev()));
    let line = |kind: &str, pid: u32, inode: u64| {
        format!("1: {kind}  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF")
    };
    let held = holder_in(&line("FLOCK", 77, found.ino()), &found);
    assert_eq!(held, Some(77));
    for other in [
        line("FLOCK", 0, found.ino()),
        line("FLOCK", 77, found.ino() + 1),
        line("POSIX", 77, found.ino()),
        line("-> FLOCK", 77, found.ino()),
        "1: FLOCK".to_owned(),
        String::new(),
    ] {
        assert_eq!(holder_in(&other, &found), None, "{other}");
    }
}

#[test]
fn a_caller_is_gone_when_its_end_is_closed_and_not_when_it_only_sends_no_more() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let caller = Caller::at(ours);
    assert!(!caller.is_gone() && !Caller::default().is_gone());
    theirs.shutdown(Shutdown::Write).unwrap();
    assert!(!caller.is_gone());
    drop(theirs);
    assert!(caller.is_gone());
}

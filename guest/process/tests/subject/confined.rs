//! Confinement: filters of system calls, another root directory. Watches of files.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Barrier};

use crate::event_loops::owned;
use crate::processes::{fork, wait};
use crate::{Check, Fixture, wait_for};

/// The error that a filter gives to a call that it denies.
const DENIED: i32 = libc::ENOTUNIQ;

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "call-filters" => call_filters(),
        "other-root" => other_root(fixture),
        "watches" => watches(fixture),
        _ => return None,
    })
}

/// Installs a filter that answers a call with an action.
fn filter(number: libc::c_long, action: u32, flags: u32) {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // Loads the number of the call, and compares it.
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ, 0, 1, number as u32),
        instruction(libc::BPF_RET, 0, 0, action),
        instruction(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program lives through the call.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    assert_eq!(set, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// Filters that deny a call, and that kill who makes calls that a capture would have it make; a
/// thread has them, too.
fn call_filters() -> Check {
    // SAFETY: the call takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    filter(libc::SYS_acct, libc::SECCOMP_RET_ERRNO | DENIED as u32, 0);
    for forbidden in [libc::SYS_getitimer, libc::SYS_membarrier, libc::SYS_keyctl] {
        filter(forbidden, libc::SECCOMP_RET_KILL_PROCESS, 2);
    }
    let is_denied = || {
        // SAFETY: no accounting is switched off: the call is denied.
        let done = unsafe { libc::acct(std::ptr::null()) };
        done == -1 && std::io::Error::last_os_error().raw_os_error() == Some(DENIED)
    };
    // Passed when the thread has begun, and when it is asked.
    let begun_and_asked = Arc::new(Barrier::new(2));
    let thread = {
        let begun_and_asked = Arc::clone(&begun_and_asked);
        std::thread::spawn(move || {
            begun_and_asked.wait();
            begun_and_asked.wait();
            is_denied()
        })
    };
    begun_and_asked.wait();
    Box::new(move || {
        assert!(is_denied());
        begun_and_asked.wait();
        assert!(thread.join().expect("a thread"));
        let killed = fork(|| {
            // SAFETY: a place for the answer.
            unsafe { libc::getitimer(libc::ITIMER_REAL, &mut std::mem::zeroed()) }
        });
        let mut status = 0;
        // SAFETY: status is a place for the answer.
        assert_eq!(unsafe { libc::waitpid(killed, &mut status, 0) }, killed);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS);
    })
}

/// A child has the directory of this process as its root, and a working directory in it.
fn other_root(fixture: &Fixture) -> Check {
    let root = &fixture.directory;
    std::fs::create_dir_all(root.join("inside")).expect("a directory");
    std::fs::write(root.join("inside/file"), "text").expect("a file");
    let child = fork(|| {
        std::os::unix::fs::chroot(root).expect("a root");
        std::env::set_current_dir("/inside").expect("a directory");
        let mut file = File::open("/inside/file").expect("a file");
        std::fs::write("/confined", "").expect("a file");
        wait_for(Path::new("/go"));
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        assert_eq!(
            std::env::current_dir().expect("a directory"),
            Path::new("/inside")
        );
        let seen = std::fs::read_to_string("/inside/file").expect("a file");
        assert!(!Path::new("/proc/self").exists());
        assert!(
            Path::new("../../../inside/file").exists(),
            "it left its root"
        );
        i32::from(seen == text && text == "text")
    });
    wait_for(&root.join("confined"));
    Box::new(move || assert_eq!(wait(child), 1))
}

/// A directory and a file are watched, with numbers that are not in a row.
fn watches(fixture: &Fixture) -> Check {
    let directory = fixture.path("watched");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("file"), "").expect("a file");
    let _ = std::fs::remove_file(directory.join("new"));
    // SAFETY: the call takes numbers only.
    let mut watches = owned(unsafe { libc::inotify_init1(libc::IN_NONBLOCK) });
    let add = |path: &Path, mask: u32| {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&watches);
        // SAFETY: the path lives through the call.
        let number = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) };
        assert!(number > 0, "{}", std::io::Error::last_os_error());
        number
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&watches);
    let given_up = add(&directory, libc::IN_CREATE);
    // SAFETY: the call takes numbers only.
    assert_eq!(unsafe { libc::inotify_rm_watch(fd, given_up) }, 0);
    let of_directory = add(&directory, libc::IN_CREATE | libc::IN_ONLYDIR);
    let of_file = add(&directory.join("file"), libc::IN_MODIFY | libc::IN_ONESHOT);
    // The number that is given up is told.
    watches.read_exact(&mut [0; 16]).expect("an event");
    Box::new(move || {
        let mut events = [0; 256];
        assert!(
            watches.read(&mut events).is_err(),
            "the restart caused an event"
        );
        std::fs::write(directory.join("new"), "").expect("a file");
        std::fs::write(directory.join("file"), "x").expect("a file");
        let len = watches.read(&mut events).expect("events");
        // struct inotify_event: watch, mask, cookie, length of the name; the name.
        let number = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| events[at + byte]));
        assert_eq!(
            (number(0), number(4)),
            (of_directory, libc::IN_CREATE as i32)
        );
        assert!(events[16..].starts_with(b"new\0"));
        let second = 16 + number(12) as usize;
        assert_eq!(
            (number(second), number(second + 4)),
            (of_file, libc::IN_MODIFY as i32)
        );
        assert!(len > second);
        std::fs::remove_file(directory.join("new")).expect("a file");
    })
}

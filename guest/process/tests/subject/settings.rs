//! Settings that a process makes for itself by prctl(2), fcntl(2), mlockall(2) and files of /proc,
//! and what its open files have beside their kind.

use std::ffi::CString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Barrier};

use crate::memory::{PAGE, Region};
use crate::processes::{fork, wait};
use crate::{Check, Fixture};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "pipe-reopened" => pipe_reopened(),
        "named-pipes" => named_pipes(fixture),
        "file-locks" => file_locks(fixture),
        "file-owners" => file_owners(),
        "settings" => settings(),
        "thread-settings" => thread_settings(),
        "write-or-execute" => write_or_execute(),
        "future-locked" => future_locked(),
        _ => return None,
    })
}

fn again(fd: RawFd, options: &mut std::fs::OpenOptions) -> File {
    options
        .open(format!("/proc/self/fd/{fd}"))
        .expect("the same pipe")
}

/// Ends that were opened once more: one that does not wait, beside one that does, and one for both
/// directions.
fn pipe_reopened() -> Check {
    let (mut reader, mut writer) = pipe().expect("a pipe");
    let mut impatient = again(
        reader.as_raw_fd(),
        File::options().read(true).custom_flags(libc::O_NONBLOCK),
    );
    let (ended, only) = pipe().expect("a pipe");
    let mut both = again(only.as_raw_fd(), File::options().read(true).write(true));
    drop((ended, only));
    both.write_all(b"both").expect("room");
    Box::new(move || {
        let error = impatient.read(&mut [0]).expect_err("it is empty");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        // SAFETY: the call takes numbers only.
        let flags = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0, "the other end waits, too");
        writer.write_all(b"ab").expect("room");
        let mut byte = [0; 1];
        impatient.read_exact(&mut byte).expect("a byte");
        reader.read_exact(&mut byte).expect("a byte");
        assert_eq!(&byte, b"b");
        let mut word = [0; 4];
        both.read_exact(&mut word).expect("bytes");
        assert_eq!(&word, b"both");
        both.write_all(b"more").expect("it reads and writes");
        both.read_exact(&mut word).expect("bytes");
        assert_eq!(&word, b"more");
    })
}

/// Named pipes: both ends here with something in it, and a writer alone.
fn named_pipes(fixture: &Fixture) -> Check {
    let make = |name: &str| {
        let path = fixture.path(name);
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
        // SAFETY: the name lives through the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        path
    };
    let path = make("pipe");
    let patient = File::options().read(true).write(true).open(&path);
    let mut reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .expect("a pipe");
    let mut writer = File::options().write(true).open(&path).expect("a pipe");
    drop(patient);
    writer.write_all(b"first").expect("room");
    let alone = make("alone");
    let keeper = File::options().read(true).write(true).open(&alone);
    let mut lonely = File::options().write(true).open(&alone).expect("a pipe");
    lonely.write_all(b"left").expect("room");
    drop(keeper);
    Box::new(move || {
        writer.write_all(b"second").expect("room");
        let mut words = [0; 11];
        reader.read_exact(&mut words).expect("bytes");
        assert_eq!(&words, b"firstsecond");
        let error = reader.read(&mut [0]).expect_err("it is empty");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        drop(writer);
        assert_eq!(reader.read(&mut [0]).expect("an end"), 0);
        let mut late = File::options().read(true).open(&alone).expect("a pipe");
        let mut word = [0; 4];
        late.read_exact(&mut word).expect("what was left");
        assert_eq!(&word, b"left");
        drop(lonely);
        std::fs::remove_file(&path)
            .and(std::fs::remove_file(&alone))
            .expect("pipes");
        let made = [&path, &alone].map(|path| {
            let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
            // SAFETY: the name lives through the call.
            unsafe { libc::mkfifo(name.as_ptr(), 0o600) }
        });
        assert_eq!(made, [0, 0]);
    })
}

/// Locks of all three kinds, of whole files and of ranges: another process cannot have them.
fn file_locks(fixture: &Fixture) -> Check {
    let open = |name: &str| {
        let path = fixture.path(name);
        std::fs::write(&path, [0; 100]).expect("a file");
        let mut options = File::options();
        options.read(true).write(true).open(path).expect("the file")
    };
    let (whole, shared, ranges, own) = (open("whole"), open("shared"), open("r"), open("own"));
    flock(&whole, libc::LOCK_EX).expect("a lock");
    flock(&shared, libc::LOCK_SH).expect("a lock");
    range(&ranges, libc::F_SETLK, libc::F_WRLCK, 10, 5).expect("a lock");
    range(&ranges, libc::F_SETLK, libc::F_RDLCK, 50, 0).expect("a lock");
    range(&own, libc::F_OFD_SETLK, libc::F_WRLCK, 20, 10).expect("a lock");
    let paths = ["whole", "shared", "r", "own"].map(|name| fixture.path(name));
    Box::new(move || {
        let other = fork(|| {
            let [whole, shared, ranges, own] = paths.map(|path| {
                let mut options = File::options();
                options.read(true).write(true).open(path).expect("the file")
            });
            let set = libc::F_SETLK;
            let got = [
                flock(&whole, libc::LOCK_SH),
                flock(&shared, libc::LOCK_SH),
                flock(&shared, libc::LOCK_EX),
                range(&ranges, set, libc::F_RDLCK, 14, 1),
                range(&ranges, set, libc::F_WRLCK, 15, 35),
                range(&ranges, set, libc::F_RDLCK, 60, 1),
                range(&ranges, set, libc::F_WRLCK, 60, 1),
                range(&own, set, libc::F_WRLCK, 29, 1),
                range(&own, set, libc::F_WRLCK, 30, 1),
            ];
            let expected = [false, true, false, false, true, true, false, false, true];
            i32::from(got.map(|got| got.is_ok()) == expected)
        });
        assert_eq!(wait(other), 1, "another process got other locks");
        // They are its own: it can give them up.
        flock(&whole, libc::LOCK_UN).expect("a lock");
        range(&ranges, libc::F_SETLK, libc::F_UNLCK, 0, 0).expect("a lock");
        drop((shared, own));
    })
}

fn flock(file: &File, how: i32) -> std::io::Result<()> {
    // SAFETY: the call takes numbers only.
    match unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn range(file: &File, command: i32, kind: i32, start: i64, len: i64) -> std::io::Result<()> {
    // SAFETY: a structure of numbers that lives through the call.
    let set = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        (lock.l_start, lock.l_len) = (start, len);
        libc::fcntl(file.as_raw_fd(), command, &lock)
    };
    match set {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A pipe that sends a signal of its own when something comes.
fn file_owners() -> Check {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    let (mut reader, mut writer): (PipeReader, PipeWriter) = pipe().expect("a pipe");
    let wanted = libc::SIGRTMIN() + 3;
    let fd = reader.as_raw_fd();
    // SAFETY: calls with numbers, and with a set that lives through them.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, wanted);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        assert_eq!(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()), 0);
        assert_eq!(libc::fcntl(fd, F_SETSIG, wanted), 0);
        let flags = libc::fcntl(fd, libc::F_GETFL);
        assert_eq!(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC), 0);
    }
    Box::new(move || {
        // SAFETY: calls with numbers, and with structures that live through them.
        unsafe {
            assert_eq!(libc::fcntl(fd, libc::F_GETOWN), libc::getpid());
            assert_eq!(libc::fcntl(fd, F_GETSIG), wanted);
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, wanted);
            let limit = libc::timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            writer.write_all(b"x").expect("room");
            let mut info: libc::siginfo_t = std::mem::zeroed();
            assert_eq!(libc::sigtimedwait(&set, &mut info, &limit), wanted);
        }
        reader.read_exact(&mut [0]).expect("a byte");
    })
}

fn prctl(option: i32, argument: u64) -> i32 {
    // SAFETY: only called with options that take numbers.
    unsafe { libc::prctl(option, argument, 0usize, 0usize, 0usize) }
}

/// No huge pages, other core dumps, and, where the kernel has it, memory that is merged.
fn settings() -> Check {
    const SET_MERGE: i32 = 67;
    const GET_MERGE: i32 = 68;
    assert_eq!(prctl(libc::PR_SET_THP_DISABLE, 1), 0);
    std::fs::write("/proc/self/coredump_filter", "0x11").expect("a filter");
    let merges = prctl(SET_MERGE, 1) == 0;
    Box::new(move || {
        assert_eq!(prctl(libc::PR_GET_THP_DISABLE, 0), 1);
        let filter = std::fs::read_to_string("/proc/self/coredump_filter").expect("a filter");
        assert_eq!(filter.trim(), "00000011");
        if merges {
            assert_eq!(prctl(GET_MERGE, 0), 1);
        }
    })
}

/// Each of two threads has its own timer slack, another has no time stamps, and another way to
/// end when memory fails.
fn thread_settings() -> Check {
    let (set, go) = (Arc::new(Barrier::new(3)), Arc::new(Barrier::new(3)));
    let thread = |slack: u64, stamps: i32, failure: i32| {
        let (set, go) = (set.clone(), go.clone());
        std::thread::spawn(move || {
            let kill = |command: i32, argument: i32| {
                // SAFETY: the call takes numbers only.
                unsafe { libc::prctl(command, argument as usize, failure as usize, 0usize, 0usize) }
            };
            assert_eq!(prctl(libc::PR_SET_TIMERSLACK, slack), 0);
            assert_eq!(prctl(libc::PR_SET_TSC, stamps as u64), 0);
            assert_eq!(kill(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET), 0);
            set.wait();
            go.wait();
            let mut now = 0i32;
            // SAFETY: the kernel writes an int to where now is.
            unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut now) };
            assert_eq!(prctl(libc::PR_GET_TIMERSLACK, 0), slack as i32);
            assert_eq!(now, stamps);
            assert_eq!(prctl(libc::PR_MCE_KILL_GET, 0), failure);
        })
    };
    let threads = [
        thread(123_456, libc::PR_TSC_ENABLE, libc::PR_MCE_KILL_EARLY),
        thread(7_000_000, libc::PR_TSC_SIGSEGV, libc::PR_MCE_KILL_LATE),
    ];
    set.wait();
    Box::new(move || {
        assert_eq!(prctl(libc::PR_MCE_KILL_GET, 0), libc::PR_MCE_KILL_DEFAULT);
        go.wait();
        for thread in threads {
            thread.join().expect("a thread");
        }
    })
}

/// Memory cannot be made executable any more.
fn write_or_execute() -> Check {
    const SET_MDWE: i32 = 65;
    assert_eq!(prctl(SET_MDWE, 1), 0, "Invalid argument");
    Box::new(|| {
        let protection = READ_WRITE | libc::PROT_EXEC;
        // SAFETY: the kernel chooses the place of the mapping, if it makes it at all.
        let mapped = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0)
        };
        assert_eq!(mapped, libc::MAP_FAILED, "memory can be written and run");
    })
}

/// Memory that is mapped from now on is locked.
fn future_locked() -> Check {
    // SAFETY: the call takes numbers only.
    let locked = unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
    let locked = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("a status");
        let line = status.lines().find(|line| line.starts_with("VmLck:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        kib.expect("a number")
    };
    let before = locked();
    Box::new(move || {
        assert_eq!(locked(), before, "what was there before is locked");
        let _region = Region::map(
            16,
            READ_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        );
        assert_eq!(locked(), before + 64, "what is new is not locked");
    })
}

//! A process with children.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::process::exit;

use crate::memory::Region;
use crate::{Check, Fixture, wait_for};

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "tree" => tree(fixture),
        "ended-children" => ended_children(fixture),
        "process-files" => process_files(fixture),
        "shared-loop" => shared_loop(fixture),
        "exit-signal" => exit_signal(fixture),
        "stopped-child" => stopped_child(),
        "forked-memory" => forked_memory(fixture),
        _ => return None,
    })
}

/// Starts a child; it ends with what the body returns.
pub fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: there is one thread, so the child may go on like any program.
    match unsafe { libc::fork() } {
        0 => exit(body()),
        pid => {
            assert!(pid > 0, "fork");
            pid
        }
    }
}

pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is a place for the answer.
    let ended = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(ended, pid, "its child is not its child");
    assert!(libc::WIFEXITED(status), "{status:#x}");
    libc::WEXITSTATUS(status)
}

/// Two children and a grandchild, which share memory that nobody has written since, a file, and
/// pipes; one child leads a process group that the grandchild is in. All of them wait; the
/// grandchild's answer comes up through its parent.
fn tree(fixture: &Fixture) -> Check {
    let region = Region::anonymous(64);
    (0..64).for_each(|page| region.fill(page, 21));
    std::fs::write(fixture.path("shared"), "0123456789").expect("a file");
    let mut shared = File::open(fixture.path("shared")).expect("the file");
    let (mut answers, mut answer) = pipe().expect("a pipe");
    let (mut questions, mut question) = pipe().expect("a pipe");
    let go = fixture.path("go");
    let first = fork(|| {
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
        // SAFETY: the call takes nothing.
        let group = unsafe { libc::getpid() };
        let grandchild = fork(|| {
            region.fill(1, 22);
            std::fs::write(go.with_file_name("grandchild"), "").expect("a file");
            let mut word = [0; 3];
            questions.read_exact(&mut word).expect("a question");
            (2..64).for_each(|page| region.assert_filled(page, 21));
            region.assert_filled(1, 22);
            // SAFETY: the calls take numbers only.
            let related = unsafe { libc::getpgid(0) == group && libc::getppid() == group };
            answer
                .write_all(if related && &word == b"go?" {
                    b"yes"
                } else {
                    b"no!"
                })
                .expect("room");
            17
        });
        wait(grandchild) + 1
    });
    let second = fork(|| {
        wait_for(&go);
        let mut digits = [0; 4];
        (&shared).read_exact(&mut digits).expect("digits");
        i32::from(&digits == b"0123")
    });
    wait_for(&fixture.path("grandchild"));
    Box::new(move || {
        assert_eq!(wait(second), 1);
        let mut digits = [0; 4];
        shared.read_exact(&mut digits).expect("digits");
        assert_eq!(
            &digits, b"4567",
            "parent and child have no common offset any more"
        );
        question.write_all(b"go?").expect("room");
        assert_eq!(wait(first), 18);
        let mut word = [0; 3];
        answers.read_exact(&mut word).expect("an answer");
        assert_eq!(&word, b"yes");
        (0..64).for_each(|page| region.assert_filled(page, 21));
    })
}

/// Processes that a fork has made have most of their memory in common; each has written some pages,
/// given some back, and let its memory grow. One has a child of its own.
fn forked_memory(fixture: &Fixture) -> Check {
    const PAGES: usize = 1500;
    let region = Region::anonymous(PAGES);
    (0..PAGES).for_each(|page| region.fill(page, 5));
    let (questions, mut question) = pipe().expect("a pipe");
    let directory = &fixture.directory;
    let body = |number: u64| {
        region.fill(number as usize, 10 + number);
        region.advise(20 + number as usize, 1, libc::MADV_DONTNEED);
        let verify = move |region: &Region| {
            let own = [number as usize, 20 + number as usize];
            region.assert_filled(own[0], 10 + number);
            region.assert_zero(own[1]);
            let others = (0..PAGES).filter(|page| !own.contains(page));
            others.for_each(|page| region.assert_filled(page, 5));
        };
        std::fs::write(directory.join(format!("child-{number}")), "").expect("a file");
        (&questions).read_exact(&mut [0]).expect("a question");
        verify(&region);
        let grown = region.grow(PAGES + 200);
        grown.fill(PAGES + 100, 6);
        verify(&grown);
        i32::from(number == 3)
    };
    let children: Vec<i32> = (0..4)
        .map(|number| {
            fork(|| match number {
                3 => {
                    let grandchild = fork(|| body(3));
                    let ended = body(4);
                    ended + wait(grandchild)
                }
                _ => body(number),
            })
        })
        .collect();
    (0..5).for_each(|number| wait_for(&fixture.path(&format!("child-{number}"))));
    // The heap of this process goes on where those of its children end.
    let heap: Vec<Vec<u8>> = (0..50).map(|number| vec![number; 3000]).collect();
    Box::new(move || {
        region.assert_shared_by(3);
        (0..PAGES).for_each(|page| region.assert_filled(page, 5));
        question.write_all(b"12345").expect("room");
        let ends: Vec<i32> = children.iter().map(|child| wait(*child)).collect();
        assert_eq!(ends, [0, 0, 0, 1]);
        let mut blocks = (0..).zip(&heap);
        assert!(blocks.all(|(number, block)| block == &vec![number; 3000]));
    })
}

/// The end of a child as wait(2) has it.
fn status_of(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is a place for the answer.
    let found = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(found, pid, "it is not there");
    status
}

/// Waits until a child has ended, and leaves it to be waited for.
fn wait_for_end(pid: i32) {
    // SAFETY: info is a place for the answer.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let how = libc::WEXITED | libc::WNOWAIT;
        assert_eq!(libc::waitid(libc::P_PID, pid as u32, &mut info, how), 0);
    }
}

static SEEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
}

/// Children that ended by themselves and by a signal, in groups of their own and in one whose
/// leader has ended; the parent has been told once of each, and is not told again.
fn ended_children(fixture: &Fixture) -> Check {
    use std::sync::atomic::Ordering::SeqCst;
    // SAFETY: the handler only counts.
    unsafe {
        let handler = count_signal as extern "C" fn(libc::c_int);
        libc::signal(libc::SIGCHLD, handler as libc::sighandler_t);
    }
    // Two signals at once would be one.
    let ends = |pid: i32, seen: u32| {
        wait_for_end(pid);
        while SEEN.load(SeqCst) < seen {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    let exited = fork(|| 7);
    ends(exited, 1);
    let killed = fork(|| {
        loop {
            // SAFETY: the call takes nothing.
            unsafe { libc::pause() };
        }
    });
    // SAFETY: the call takes numbers only.
    unsafe { libc::kill(killed, libc::SIGTERM) };
    ends(killed, 2);
    let leader = fork(|| {
        // SAFETY: the call takes numbers only.
        unsafe { libc::setpgid(0, 0) };
        0
    });
    ends(leader, 3);
    let go = fixture.path("go");
    let member = fork(|| {
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::setpgid(0, leader) }, 0);
        std::fs::write(go.with_file_name("member"), "").expect("a file");
        wait_for(&go);
        // SAFETY: the call takes nothing.
        i32::from(unsafe { libc::getpgid(0) } == leader)
    });
    wait_for(&fixture.path("member"));
    Box::new(move || {
        let status = status_of(killed);
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGTERM);
        assert_eq!(wait(exited), 7);
        assert_eq!(wait(member), 1, "the group has another number");
        assert_eq!(wait(leader), 0);
        assert_eq!(SEEN.load(SeqCst), 4, "it was told of a child again");
        // SAFETY: the call takes a null pointer.
        assert_eq!(unsafe { libc::wait(std::ptr::null_mut()) }, -1);
    })
}

fn process_file(pid: i32) -> File {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the call takes numbers only, and makes a descriptor that is nobody's yet.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd).into()
    }
}

/// Descriptors for a child that runs, and for one that has ended.
fn process_files(fixture: &Fixture) -> Check {
    use std::os::fd::AsRawFd;
    let go = fixture.path("go");
    let running = fork(|| {
        wait_for(&go);
        3
    });
    let over = fork(|| 4);
    let files = [running, over].map(process_file);
    wait_for_end(over);
    let ready = |file: &File, wait_ms: i32| {
        let mut asked = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: asked is one pollfd.
        unsafe { libc::poll(&mut asked, 1, wait_ms) == 1 }
    };
    assert!(ready(&files[1], 0) && !ready(&files[0], 0));
    Box::new(move || {
        assert!(ready(&files[1], 0), "the child that had ended runs");
        assert!(ready(&files[0], 5000), "its end is not told");
        for (file, code) in files.iter().zip([3, 4]) {
            // SAFETY: info is a place for the answer.
            let info = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let id = file.as_raw_fd() as u32;
                assert_eq!(libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED), 0);
                info
            };
            // SAFETY: waitid has filled it in.
            assert_eq!(unsafe { info.si_status() }, code);
        }
    })
}

/// A poll set and a counter that parent and child have in common.
fn shared_loop(fixture: &Fixture) -> Check {
    let counter = crate::event_loops::counter(0, libc::EFD_NONBLOCK);
    let set = crate::event_loops::PollSet::new();
    set.add(&counter, libc::EPOLLIN as u32, 11);
    let go = fixture.path("go");
    let child = fork(|| {
        wait_for(&go);
        i32::from(set.ready(5000) == [(11, libc::EPOLLIN as u32)])
    });
    Box::new(move || {
        (&counter)
            .write_all(&1u64.to_ne_bytes())
            .expect("room in a counter");
        assert_eq!(wait(child), 1);
        assert_eq!(set.ready(0), [(11, libc::EPOLLIN as u32)]);
    })
}

/// A child that tells its end by another signal than SIGCHLD.
fn exit_signal(fixture: &Fixture) -> Check {
    let go = fixture.path("go");
    // SAFETY: structures of numbers that live through the calls. There is one thread, so the child
    // may go on like any program.
    let (child, set) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let none = 0usize;
        let child = libc::syscall(libc::SYS_clone, libc::SIGUSR1, none, none, none, none);
        (child as i32, set)
    };
    assert!(child >= 0, "clone");
    if child == 0 {
        wait_for(&go);
        exit(5);
    }
    Box::new(move || {
        let limit = libc::timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let mut status = 0;
        // SAFETY: structures of numbers that live through the calls.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            assert_eq!(libc::sigtimedwait(&set, &mut info, &limit), libc::SIGUSR1);
            assert_eq!(info.si_pid(), child);
            assert_eq!(
                libc::waitpid(child, &mut status, 0),
                -1,
                "it is a usual child"
            );
            assert_eq!(libc::waitpid(child, &mut status, libc::__WALL), child);
        }
        assert_eq!(libc::WEXITSTATUS(status), 5);
    })
}

/// A child with two threads that is stopped. Its parent has seen that, and does not see it again.
fn stopped_child() -> Check {
    use std::sync::atomic::Ordering::SeqCst;
    // SAFETY: the handler only counts.
    unsafe {
        let handler = count_signal as extern "C" fn(libc::c_int);
        libc::signal(libc::SIGCHLD, handler as libc::sighandler_t);
        // Has a session of its own, unless it leads a group. The kernel has a stopped group go on,
        // by SIGHUP and SIGCONT, when its last relative in the same session ends.
        libc::setsid();
    }
    let child = fork(|| {
        let other = std::thread::spawn(|| {
            // SAFETY: the call takes numbers only.
            unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
            9
        });
        other.join().expect("a thread")
    });
    let seen = move |how: i32| {
        let mut status = 0;
        // SAFETY: status is a place for the answer.
        let found = unsafe { libc::waitpid(child, &mut status, how) };
        (found, status)
    };
    let (found, status) = seen(libc::WUNTRACED);
    assert!(found == child && libc::WIFSTOPPED(status), "{status:#x}");
    while SEEN.load(SeqCst) < 1 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Box::new(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let state = std::fs::read_to_string(format!("/proc/{child}/status")).expect("a child");
        assert!(state.contains("State:\tT (stopped)"), "it runs: {state}");
        assert_eq!(
            seen(libc::WUNTRACED | libc::WNOHANG).0,
            0,
            "it is seen again"
        );
        assert_eq!(SEEN.load(SeqCst), 1, "its parent was told again");
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::kill(child, libc::SIGCONT) }, 0);
        assert_eq!(wait(child), 9);
    })
}

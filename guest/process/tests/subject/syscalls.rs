//! System calls that the freeze interrupts: each in a thread of its own, which is in it for the
//! whole time.

use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{mem, ptr};

use crate::{Check, Fixture};

pub fn scenario(name: &str, _: &Fixture) -> Option<Check> {
    Some(match name {
        "sleep" => sleep(),
        "pipe-read" => pipe_read(),
        "futex-wait" => futex_wait(),
        "poll" => poll(),
        "signal-wait" => signal_wait(),
        _ => return None,
    })
}

/// Runs in a thread, and waits until it is in that system call.
fn inside<T: Send + 'static>(
    number: libc::c_long,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let tid = Arc::new(AtomicI32::new(0));
    let told = tid.clone();
    let runner = thread::spawn(move || {
        // The standard library declares gettid() weak. A static program may be left without it.
        // SAFETY: the call takes nothing.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        told.store(tid as i32, Ordering::SeqCst);
        body()
    });
    let is_inside = |tid: i32| {
        let text =
            std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap_or_default();
        text.split(' ').next() == Some(number.to_string().as_str())
    };
    while !is_inside(tid.load(Ordering::SeqCst)) {
        thread::sleep(Duration::from_millis(1));
    }
    runner
}

/// The sleep continues, or reports that it was interrupted and the time that was left.
fn sleep() -> Check {
    const HOUR_S: i64 = 3600;
    let left_s = Arc::new(AtomicI64::new(HOUR_S));
    let told = left_s.clone();
    let sleeper = inside(libc::SYS_clock_nanosleep, move || {
        let mut left = libc::timespec {
            tv_sec: HOUR_S,
            tv_nsec: 0,
        };
        loop {
            let length = left;
            // SAFETY: both times live through the call.
            let result =
                unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &length, &mut left) };
            if result != libc::EINTR {
                return result;
            }
            told.store(left.tv_sec, Ordering::SeqCst);
        }
    });
    Box::new(move || {
        assert!(
            !sleeper.is_finished(),
            "it woke early: {:?}",
            sleeper.join()
        );
        let left_s = left_s.load(Ordering::SeqCst);
        assert!((HOUR_S - 600..=HOUR_S).contains(&left_s), "{left_s} s left");
    })
}

fn pipe_read() -> Check {
    let (mut reader, mut writer) = pipe().expect("a pipe");
    let runner = inside(libc::SYS_read, move || {
        let mut word = [0; 4];
        reader.read_exact(&mut word).map(|()| word)
    });
    Box::new(move || {
        writer.write_all(b"word").expect("room");
        assert_eq!(
            &runner.join().expect("the reader").expect("no error"),
            b"word"
        );
    })
}

fn futex_wait() -> Check {
    let word = Arc::new(AtomicU32::new(7));
    let waiter = {
        let word = word.clone();
        inside(libc::SYS_futex, move || {
            // SAFETY: the word lives through the call.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    libc::FUTEX_WAIT,
                    7,
                    0usize,
                    0usize,
                    0,
                )
            }
        })
    };
    Box::new(move || {
        // Let it get back into its wait: a wake is only seen by who waits.
        while !waiter.is_finished() {
            // SAFETY: the word lives through the call.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiter.join().expect("the waiter"), 0);
    })
}

/// poll(2) may end with EINTR, and does not for anything else but what it waits for.
fn poll() -> Check {
    let (reader, mut writer) = pipe().expect("a pipe");
    let waiter = inside(libc::SYS_poll, move || {
        let mut interrupted = 0;
        loop {
            let mut wanted = libc::pollfd {
                fd: reader.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: wanted lives through the call.
            match unsafe { libc::poll(&mut wanted, 1, 3_600_000) } {
                1 => return interrupted,
                _ => assert_eq!(
                    std::io::Error::last_os_error().raw_os_error(),
                    Some(libc::EINTR)
                ),
            }
            interrupted += 1;
        }
    });
    Box::new(move || {
        writer.write_all(b"x").expect("room");
        let interrupted = waiter.join().expect("the waiter");
        assert!(interrupted <= 10, "interrupted {interrupted} times");
    })
}

/// sigsuspend(2) waits with another mask than the one that the thread has again afterwards.
fn signal_wait() -> Check {
    crate::signals::handle(libc::SIGUSR2, 0);
    let waiter = inside(libc::SYS_rt_sigsuspend, || {
        // SAFETY: the sets live through the calls.
        unsafe {
            let mut blocked: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&mut blocked, libc::SIGUSR2);
            libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, ptr::null_mut());
            let open: libc::sigset_t = mem::zeroed();
            libc::sigsuspend(&open);
            let mut now: libc::sigset_t = mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut now);
            libc::sigismember(&now, libc::SIGUSR2)
        }
    });
    Box::new(move || {
        use std::os::unix::thread::JoinHandleExt;
        // SAFETY: the thread was not joined yet.
        unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR2) };
        assert_eq!(waiter.join().expect("the waiter"), 1, "it lost its mask");
    })
}

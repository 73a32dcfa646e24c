//! Signals, their handlers, and timers.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{mem, ptr};

use crate::{Check, Fixture};

pub fn scenario(name: &str, _: &Fixture) -> Option<Check> {
    Some(match name {
        "signals" => signals(),
        "signal-stack" => signal_stack(),
        "interval-timers" => interval_timers(),
        _ => return None,
    })
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicI64 = AtomicI64::new(0);
static STACK_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a siginfo_t.
    let value = unsafe { (*info).si_value().sival_ptr } as i64;
    VALUES.fetch_add(value, Ordering::SeqCst);
    HANDLED.fetch_add(1, Ordering::SeqCst);
    let here = 0u8;
    STACK_AT.store(ptr::from_ref(&here) as usize, Ordering::SeqCst);
}

pub fn handle(signal: i32, flags: i32) {
    // SAFETY: the handler only uses atomics.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        libc::sigaddset(&mut action.sa_mask, libc::SIGHUP);
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

fn mask(how: i32, signals: &[i32]) {
    // SAFETY: the set lives through the calls.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        signals
            .iter()
            .for_each(|signal| assert_eq!(libc::sigaddset(&mut set, *signal), 0));
        assert_eq!(libc::pthread_sigmask(how, &set, ptr::null_mut()), 0);
    }
}

/// Blocked signals that are pending, for the process and for the thread, with the values they came
/// with; one that is ignored; and one that a handler is there for.
fn signals() -> Check {
    let real_time = libc::SIGRTMIN() + 3;
    handle(libc::SIGUSR1, 0);
    handle(libc::SIGUSR2, libc::SA_RESTART);
    handle(real_time, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, real_time]);
    // SAFETY: signals to this process, which it handles, blocks or ignores.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        for value in [5, 70, 900] {
            let value = libc::sigval {
                sival_ptr: value as *mut libc::c_void,
            };
            assert_eq!(libc::sigqueue(libc::getpid(), real_time, value), 0);
        }
        assert_eq!(libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1), 0);
    }
    Box::new(move || {
        assert_eq!(HANDLED.load(Ordering::SeqCst), 0, "a blocked signal came");
        mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1, real_time]);
        assert_eq!(
            (
                HANDLED.load(Ordering::SeqCst),
                VALUES.load(Ordering::SeqCst) & 0xffff
            ),
            (4, 975)
        );
        // SAFETY: as above.
        unsafe {
            libc::raise(libc::SIGTERM);
            libc::raise(libc::SIGUSR2);
        }
        assert_eq!(HANDLED.load(Ordering::SeqCst), 5);
    })
}

fn signal_stack() -> Check {
    let room = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let range = room.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let stack = libc::stack_t {
        ss_sp: room.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: end - start,
    };
    // SAFETY: the room is never used for anything else, nor freed.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
    handle(libc::SIGUSR1, libc::SA_ONSTACK);
    Box::new(move || {
        // SAFETY: a signal to this process, which it handles.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert!(
            (start..end).contains(&STACK_AT.load(Ordering::SeqCst)),
            "the handler ran elsewhere"
        );
    })
}

/// One timer that comes again and again, one that is far off.
fn interval_timers() -> Check {
    handle(libc::SIGALRM, libc::SA_RESTART);
    let time = |seconds, us| libc::timeval {
        tv_sec: seconds,
        tv_usec: us,
    };
    let often = libc::itimerval {
        it_interval: time(0, 20_000),
        it_value: time(0, 20_000),
    };
    let late = libc::itimerval {
        it_interval: time(0, 0),
        it_value: time(5000, 0),
    };
    // SAFETY: the values live through the calls.
    unsafe {
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &often, ptr::null_mut()),
            0
        );
        assert_eq!(
            libc::setitimer(libc::ITIMER_PROF, &late, ptr::null_mut()),
            0
        );
    }
    Box::new(|| {
        let before = HANDLED.load(Ordering::SeqCst);
        let began = Instant::now();
        while HANDLED.load(Ordering::SeqCst) < before + 5
            && began.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            HANDLED.load(Ordering::SeqCst) >= before + 5,
            "the timer stands still"
        );
        // SAFETY: left has room for the answer.
        let left = unsafe {
            let mut left: libc::itimerval = mem::zeroed();
            assert_eq!(libc::getitimer(libc::ITIMER_PROF, &mut left), 0);
            left.it_value.tv_sec
        };
        assert!((4000..=5000).contains(&left), "{left} s are left");
    })
}

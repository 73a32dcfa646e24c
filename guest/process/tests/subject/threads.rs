//! Threads: locks, locals, names, scheduling.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Check, Fixture};

pub fn scenario(name: &str, _: &Fixture) -> Option<Check> {
    Some(match name {
        "threads" => threads(),
        "robust-futexes" => robust_futexes(),
        "thread-scheduling" => thread_scheduling(),
        "memory-barriers" => memory_barriers(),
        _ => return None,
    })
}

thread_local! {
    static LOCAL: Cell<u64> = const { Cell::new(0) };
}

/// Four threads pass a turn around under a lock, all the time; each has a local that is its own.
fn threads() -> Check {
    const COUNT: u64 = 4;
    let turn = Arc::new((Mutex::new(0u64), Condvar::new()));
    let (stop, rounds) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let runners: Vec<JoinHandle<u64>> = (0..COUNT)
        .map(|own| {
            let (turn, stop, rounds) = (turn.clone(), stop.clone(), rounds.clone());
            thread::spawn(move || {
                LOCAL.set(own * 1000);
                while !stop.load(Ordering::SeqCst) {
                    let (lock, changed) = &*turn;
                    let mut now = lock.lock().expect("no panic");
                    while *now % COUNT != own && !stop.load(Ordering::SeqCst) {
                        now = changed.wait(now).expect("no panic");
                    }
                    *now += 1;
                    changed.notify_all();
                    LOCAL.set(LOCAL.get() + 1);
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
                LOCAL.get() - own * 1000
            })
        })
        .collect();
    while rounds.load(Ordering::SeqCst) < 100 {
        thread::sleep(Duration::from_millis(1));
    }
    Box::new(move || {
        let before = rounds.load(Ordering::SeqCst);
        while rounds.load(Ordering::SeqCst) < before + 100 {
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::SeqCst);
        turn.1.notify_all();
        let each: u64 = runners
            .into_iter()
            .map(|runner| {
                turn.1.notify_all();
                runner.join().expect("a runner")
            })
            .sum();
        assert_eq!(
            each,
            rounds.load(Ordering::SeqCst),
            "a thread's own count is wrong"
        );
        let late = thread::spawn(|| LOCAL.get());
        assert_eq!(late.join().expect("a new thread"), 0);
    })
}

/// A robust lock that its owner dies with is handed on: the kernel still knows the owner's list.
fn robust_futexes() -> Check {
    struct Robust(std::cell::UnsafeCell<libc::pthread_mutex_t>);
    // SAFETY: a mutex of pthreads is made to be used by many threads.
    unsafe impl Sync for Robust {}
    // SAFETY: as above.
    unsafe impl Send for Robust {}
    let mutex = Arc::new(Robust(libc::PTHREAD_MUTEX_INITIALIZER.into()));
    // SAFETY: attributes and mutex are initialised before anybody else sees them.
    unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutex_init(mutex.0.get(), &attributes);
    }
    let (end, locked) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let owner = {
        let (mutex, end, locked) = (mutex.clone(), end.clone(), locked.clone());
        thread::spawn(move || {
            // SAFETY: the mutex is initialised.
            assert_eq!(unsafe { libc::pthread_mutex_lock(mutex.0.get()) }, 0);
            locked.wait();
            end.wait();
        })
    };
    locked.wait();
    Box::new(move || {
        // SAFETY: the mutex is initialised.
        let (busy, handed_on) = unsafe {
            let busy = libc::pthread_mutex_trylock(mutex.0.get());
            end.wait();
            owner.join().expect("the owner");
            (busy, libc::pthread_mutex_lock(mutex.0.get()))
        };
        assert_eq!((busy, handed_on), (libc::EBUSY, libc::EOWNERDEAD));
    })
}

/// Names, CPUs, nice values and policies of threads; the harness compares what /proc says of them.
fn thread_scheduling() -> Check {
    let end = Arc::new(Barrier::new(3));
    let ready = Arc::new(Barrier::new(3));
    let runners: Vec<JoinHandle<()>> = [
        ("a runner", 0, 7, libc::SCHED_BATCH),
        ("another", 0, 3, libc::SCHED_OTHER),
    ]
    .into_iter()
    .map(|(name, cpu, nice, policy)| {
        let (ready, end) = (ready.clone(), end.clone());
        let runner = move || {
            // SAFETY: calls with numbers, or structures that live through them; thread 0 is the
            // caller.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut set);
                assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
                assert_eq!(
                    libc::sched_setscheduler(0, policy, &libc::sched_param { sched_priority: 0 }),
                    0
                );
                assert_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, nice), 0);
            }
            ready.wait();
            end.wait();
        };
        thread::Builder::new()
            .name(name.into())
            .spawn(runner)
            .expect("a thread")
    })
    .collect();
    ready.wait();
    Box::new(move || {
        end.wait();
        runners
            .into_iter()
            .for_each(|runner| runner.join().expect("a runner"));
    })
}

/// Barriers in other threads by membarrier(2), as liburcu uses them: a process that did not
/// register for them is refused.
fn memory_barriers() -> Check {
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    // SAFETY: the call takes numbers only.
    let barrier = |command: i32| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    assert_eq!(barrier(PRIVATE_EXPEDITED), -1, "it is not registered yet");
    assert_eq!(barrier(REGISTER_PRIVATE_EXPEDITED), 0);
    Box::new(move || {
        let done = barrier(PRIVATE_EXPEDITED);
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    })
}

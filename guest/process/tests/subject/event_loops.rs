//! Parts of event loops: eventfd, timerfd, signalfd, epoll, timers of the process.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::{Check, Fixture};

const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const EDGES: u32 = libc::EPOLLET as u32;

pub fn scenario(name: &str, _: &Fixture) -> Option<Check> {
    Some(match name {
        "event-counters" => event_counters(),
        "timer-files" => timer_files(),
        "signal-files" => signal_files(),
        "poll-sets" => poll_sets(),
        "poll-set-aliases" => aliases(),
        "one-shot" => one_shot(),
        "process-timers" => process_timers(),
        _ => return None,
    })
}

pub fn owned(fd: i32) -> File {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a call has just made it; it is nobody's yet.
    unsafe { OwnedFd::from_raw_fd(fd) }.into()
}

pub fn counter(count: u32, flags: i32) -> File {
    // SAFETY: the call takes numbers only.
    owned(unsafe { libc::eventfd(count, flags) })
}

fn read(file: &mut File) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = file.read_exact(&mut bytes);
    read.ok().map(|()| u64::from_ne_bytes(bytes))
}

/// One with a value, one that a read takes one of, one that is empty and full soon, one that two
/// descriptors share.
fn event_counters() -> Check {
    let mut usual = counter(7, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
    let mut semaphore = counter(3, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK);
    let mut large = counter(0, libc::EFD_NONBLOCK);
    large
        .write_all(&(u64::MAX - 2).to_ne_bytes())
        .expect("room");
    let mut shared = counter(0, libc::EFD_NONBLOCK);
    let mut twin = shared.try_clone().expect("a descriptor");
    Box::new(move || {
        assert_eq!((read(&mut usual), read(&mut usual)), (Some(7), None));
        let taken = [(); 4].map(|()| read(&mut semaphore));
        assert_eq!(taken, [Some(1), Some(1), Some(1), None]);
        assert!(large.write(&2u64.to_ne_bytes()).is_err(), "it has room");
        assert_eq!(read(&mut large), Some(u64::MAX - 2));
        assert_eq!(read(&mut shared), None);
        twin.write_all(&5u64.to_ne_bytes()).expect("room");
        assert_eq!(read(&mut shared), Some(5));
    })
}

type Times = ((i64, i64), (i64, i64));

fn timer(clock: i32, flags: i32, (interval, value): Times) -> File {
    let time = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
    let new = libc::itimerspec {
        it_interval: time(interval),
        it_value: time(value),
    };
    // SAFETY: the first call takes numbers only, the second reads new.
    unsafe {
        let made = owned(libc::timerfd_create(clock, libc::TFD_NONBLOCK));
        let set = libc::timerfd_settime(made.as_raw_fd(), flags, &new, std::ptr::null_mut());
        assert_eq!(set, 0);
        made
    }
}

fn left(timer: &File) -> Times {
    // SAFETY: a structure of numbers, which the call fills.
    let found = unsafe {
        let mut found: libc::itimerspec = std::mem::zeroed();
        assert_eq!(libc::timerfd_gettime(timer.as_raw_fd(), &mut found), 0);
        found
    };
    let time = |time: libc::timespec| (time.tv_sec, time.tv_nsec);
    (time(found.it_interval), time(found.it_value))
}

fn now(clock: i32) -> (i64, i64) {
    // SAFETY: a structure of numbers, which the call fills.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        assert_eq!(libc::clock_gettime(clock, &mut now), 0);
        (now.tv_sec, now.tv_nsec)
    }
}

/// Timers that run, that expired, that count, at a time of day, and that are not armed.
fn timer_files() -> Check {
    let once = timer(libc::CLOCK_MONOTONIC, 0, ((0, 0), (5000, 0)));
    let mut expired = timer(libc::CLOCK_BOOTTIME, 0, ((0, 0), (0, 1)));
    let mut counts = timer(libc::CLOCK_MONOTONIC, 0, ((0, 3_000_000), (0, 1)));
    let (second, _) = now(libc::CLOCK_REALTIME);
    let of_day = timer(
        libc::CLOCK_REALTIME,
        libc::TFD_TIMER_ABSTIME,
        ((0, 0), (second + 9000, 0)),
    );
    let at = timer(
        libc::CLOCK_MONOTONIC,
        libc::TFD_TIMER_ABSTIME,
        ((7, 0), (now(libc::CLOCK_MONOTONIC).0 + 8000, 0)),
    );
    let unarmed = timer(libc::CLOCK_MONOTONIC, 0, ((0, 0), (0, 0)));
    std::thread::sleep(Duration::from_millis(10));
    Box::new(move || {
        let (interval, value) = left(&once);
        assert!(
            interval == (0, 0) && (4000..5000).contains(&value.0),
            "{value:?}"
        );
        assert_eq!((read(&mut expired), read(&mut expired)), (Some(1), None));
        let ticks = read(&mut counts).expect("ticks");
        assert!((3..100_000).contains(&ticks), "{ticks} ticks");
        std::thread::sleep(Duration::from_millis(10));
        assert!(read(&mut counts).expect("ticks") >= 2, "it stands still");
        // A time of day is the same after a restart at another time.
        let (seconds, _) = now(libc::CLOCK_REALTIME);
        let due = left(&of_day).1.0 + seconds;
        assert!(
            (due - second - 9000).abs() <= 1,
            "due {} s later",
            due - second
        );
        let (interval, value) = left(&at);
        assert!(
            interval == (7, 0) && (7000..8000).contains(&value.0),
            "{value:?}"
        );
        assert_eq!(left(&unarmed), ((0, 0), (0, 0)));
    })
}

fn mask(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: the set is emptied before anything is added to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// A file that shows two signals, one of which is pending; its mask is changed afterwards.
fn signal_files() -> Check {
    let set = mask(&[libc::SIGUSR1, libc::SIGUSR2]);
    // SAFETY: the sets live through the calls.
    let mut shown = unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::raise(libc::SIGUSR1);
        owned(libc::signalfd(-1, &set, libc::SFD_NONBLOCK))
    };
    Box::new(move || {
        let mut next = || {
            let mut info = [0u8; 128];
            let read = shown.read_exact(&mut info);
            read.ok()
                .map(|()| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
        };
        assert_eq!((next(), next()), (Some(libc::SIGUSR1), None));
        // SAFETY: the call takes numbers only.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(next(), Some(libc::SIGUSR2));
    })
}

/// A set of files that are waited for.
pub struct PollSet(File);

impl PollSet {
    pub fn new() -> Self {
        // SAFETY: the call takes numbers only.
        Self(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }))
    }

    fn control(&self, op: i32, file: &impl AsRawFd, events: u32, data: u64) {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: the event lives through the call.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, file.as_raw_fd(), &mut event) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    pub fn add(&self, file: &impl AsRawFd, events: u32, data: u64) {
        self.control(libc::EPOLL_CTL_ADD, file, events, data);
    }

    /// Files that are ready within so many milliseconds: data and events, in order.
    pub fn ready(&self, within_ms: i32) -> Vec<(u64, u32)> {
        // SAFETY: the kernel fills as many of the events as it says.
        let events = unsafe {
            let mut events: [libc::epoll_event; 16] = std::mem::zeroed();
            let fd = self.0.as_raw_fd();
            let count = libc::epoll_wait(fd, events.as_mut_ptr(), 16, within_ms);
            assert!(count >= 0, "{}", std::io::Error::last_os_error());
            events[..count as usize].to_vec()
        };
        let mut ready: Vec<_> = events
            .iter()
            .map(|event| (event.u64, event.events))
            .collect();
        ready.sort_unstable();
        ready
    }
}

/// A set with files of each kind, with edges and levels, and a set in it.
fn poll_sets() -> Check {
    let set = PollSet::new();
    let inner = PollSet::new();
    let (mut reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(b"held").expect("room");
    let mut idle = counter(0, libc::EFD_NONBLOCK);
    let mut within = counter(0, libc::EFD_NONBLOCK);
    let expired = timer(libc::CLOCK_MONOTONIC, 0, ((0, 0), (0, 1)));
    let usual = mask(&[libc::SIGUSR2]);
    // SAFETY: the set lives through the calls.
    let signals = unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &usual, std::ptr::null_mut());
        owned(libc::signalfd(-1, &usual, libc::SFD_NONBLOCK))
    };
    set.add(&reader, IN, u64::MAX);
    set.add(&writer, OUT | EDGES, 2);
    set.add(&idle, IN | EDGES, 0x7fff_1234_5678_9abc);
    set.add(&expired, IN, 4);
    set.add(&signals, IN, 5);
    inner.add(&within, IN, 60);
    set.add(&inner.0, IN, 6);
    assert_eq!(set.ready(1000), [(2, OUT), (4, IN), (u64::MAX, IN)]);
    Box::new(move || {
        // An edge may be told once more.
        let ready = set.ready(1000);
        assert!(
            ready.contains(&(4, IN)) && ready.contains(&(u64::MAX, IN)),
            "{ready:?}"
        );
        assert_eq!(set.ready(0), [(4, IN), (u64::MAX, IN)]);
        let mut held = [0; 4];
        reader.read_exact(&mut held).expect("bytes");
        assert_eq!(&held, b"held");
        set.control(libc::EPOLL_CTL_DEL, &expired, 0, 0);
        assert_eq!(set.ready(0), []);
        idle.write_all(&1u64.to_ne_bytes()).expect("room");
        assert_eq!(set.ready(1000), [(0x7fff_1234_5678_9abc, IN)]);
        assert_eq!(set.ready(0), [], "it is told at an edge only");
        within.write_all(&1u64.to_ne_bytes()).expect("room");
        assert_eq!(set.ready(1000), [(6, IN)]);
        assert_eq!(inner.ready(0), [(60, IN)]);
        assert_eq!(read(&mut within), Some(1));
        // SAFETY: the call takes numbers only.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(set.ready(1000), [(5, IN)]);
        drop(signals);
        set.control(libc::EPOLL_CTL_MOD, &reader, IN, 9);
        drop(writer);
        assert_eq!(set.ready(1000), [(9, libc::EPOLLHUP as u32)]);
    })
}

/// Entries whose numbers are closed, or another file's now.
fn aliases() -> Check {
    let set = PollSet::new();
    let first = counter(0, libc::EFD_NONBLOCK);
    let second = counter(0, libc::EFD_NONBLOCK);
    let mut first_twin = first.try_clone().expect("a descriptor");
    let mut second_twin = second.try_clone().expect("a descriptor");
    set.add(&first, IN, 1);
    set.add(&second, IN, 2);
    let (closed, taken) = (first.as_raw_fd(), second.as_raw_fd());
    // The number of the second is another file's from now on, which is in the set, too.
    let third = counter(0, libc::EFD_NONBLOCK);
    drop(first);
    // SAFETY: the number is this function's; the second file stays open by its twin.
    unsafe { assert_eq!(libc::dup2(third.as_raw_fd(), taken), taken) };
    set.add(&second, IN, 3);
    let mut third_twin = second;
    Box::new(move || {
        // SAFETY: the call takes numbers only.
        let flags = unsafe { libc::fcntl(closed, libc::F_GETFD) };
        assert_eq!(flags, -1, "it is open");
        for (twin, data) in [
            (&mut first_twin, 1),
            (&mut second_twin, 2),
            (&mut third_twin, 3),
        ] {
            twin.write_all(&1u64.to_ne_bytes()).expect("room");
            assert_eq!(set.ready(1000), [(data, IN)]);
            assert_eq!(read(twin), Some(1));
        }
        assert_eq!(set.ready(0), []);
        drop(third);
    })
}

/// One-shot entries: one waits, two have fired, of a pipe and of a counter.
fn one_shot() -> Check {
    let set = PollSet::new();
    let mut waits = counter(0, libc::EFD_NONBLOCK);
    let mut fired = counter(1, libc::EFD_NONBLOCK);
    let (reader, mut writer): (PipeReader, PipeWriter) = pipe().expect("a pipe");
    writer.write_all(b"x").expect("room");
    set.add(&fired, IN | ONE_SHOT, 2);
    set.add(&reader, IN | ONE_SHOT, 3);
    assert_eq!(set.ready(1000), [(2, IN), (3, IN)]);
    assert_eq!(read(&mut fired), Some(1));
    set.add(&waits, IN | ONE_SHOT, 1);
    Box::new(move || {
        assert_eq!(set.ready(0), []);
        fired.write_all(&1u64.to_ne_bytes()).expect("room");
        drop(writer);
        assert_eq!(set.ready(20), [], "an entry that has fired fires again");
        waits.write_all(&1u64.to_ne_bytes()).expect("room");
        assert_eq!(set.ready(1000), [(1, IN)]);
        set.control(libc::EPOLL_CTL_MOD, &fired, IN | ONE_SHOT, 7);
        set.control(libc::EPOLL_CTL_MOD, &reader, IN | ONE_SHOT, 8);
        let hung_up = IN | libc::EPOLLHUP as u32;
        assert_eq!(set.ready(1000), [(7, IN), (8, hung_up)]);
    })
}

/// Timers of the process, with numbers that are not in a row: one that a thread is told of, one
/// that nobody is told of, one that has expired and whose signal is pending.
fn process_timers() -> Check {
    let make = |clock: i32, notify: i32, signal: i32, value: usize| {
        // SAFETY: structures of numbers that live through the call.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = notify;
            event.sigev_signo = signal;
            event.sigev_value.sival_ptr = value as *mut libc::c_void;
            event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as i32;
            let mut id = 0i32;
            let made = libc::syscall(libc::SYS_timer_create, clock, &mut event, &mut id);
            assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
            id
        }
    };
    let set = |id: i32, interval: (i64, i64), value: (i64, i64)| {
        let numbers = [interval.0, interval.1, value.0, value.1];
        // SAFETY: the four numbers are a struct itimerspec.
        let set =
            unsafe { libc::syscall(libc::SYS_timer_settime, id, 0, numbers.as_ptr(), 0usize) };
        assert_eq!(set, 0);
    };
    let left = |id: i32| {
        let mut numbers = [0i64; 4];
        // SAFETY: the four numbers are a struct itimerspec.
        let read = unsafe { libc::syscall(libc::SYS_timer_gettime, id, numbers.as_mut_ptr()) };
        assert_eq!(read, 0, "it is not there");
        numbers
    };
    let blocked = mask(&[libc::SIGUSR1, libc::SIGUSR2]);
    // SAFETY: the set lives through the call.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut()) };
    let signal = libc::SIGEV_SIGNAL;
    let given_up = make(libc::CLOCK_MONOTONIC, signal, libc::SIGUSR1, 0);
    let long = make(
        libc::CLOCK_REALTIME,
        signal,
        libc::SIGUSR1,
        0x1234_5678_9abc,
    );
    let of_thread = make(
        libc::CLOCK_MONOTONIC,
        libc::SIGEV_THREAD_ID,
        libc::SIGUSR2,
        77,
    );
    let quiet = make(libc::CLOCK_BOOTTIME, libc::SIGEV_NONE, 0, 0);
    // SAFETY: the call takes numbers only.
    unsafe { libc::syscall(libc::SYS_timer_delete, given_up) };
    set(long, (60, 5), (3000, 0));
    set(of_thread, (0, 0), (0, 1));
    set(quiet, (0, 0), (4000, 0));
    std::thread::sleep(Duration::from_millis(5));
    Box::new(move || {
        let [interval_s, interval_ns, left_s, _] = left(long);
        assert!((interval_s, interval_ns) == (60, 5) && (2000..3000).contains(&left_s));
        assert!((3000..4000).contains(&left(quiet)[2]));
        let wanted = mask(&[libc::SIGUSR1, libc::SIGUSR2]);
        let next = || {
            let limit = libc::timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            // SAFETY: structures of numbers that live through the call.
            unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let signal = libc::sigtimedwait(&wanted, &mut info, &limit);
                (signal, info.si_code, info.si_value().sival_ptr as usize)
            }
        };
        let of_timer = libc::SI_TIMER;
        assert_eq!(next(), (libc::SIGUSR2, of_timer, 77), "it was pending");
        set(of_thread, (0, 0), (0, 1_000_000));
        assert_eq!(next(), (libc::SIGUSR2, of_timer, 77));
        let began = Instant::now();
        set(long, (0, 0), (0, 10_000_000));
        assert_eq!(next(), (libc::SIGUSR1, of_timer, 0x1234_5678_9abc));
        assert!(began.elapsed() >= Duration::from_millis(10));
    })
}

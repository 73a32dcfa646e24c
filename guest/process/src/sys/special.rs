//! Files that have no path: eventfd, timerfd, signalfd, epoll.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// The length of the kernel's signal mask.
const SIGSET_BYTES: usize = 8;
const KCMP_EPOLL_TFD: libc::c_int = 7;
/// `_IOW('T', 0, __u64)`.
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

/// `_IOW('I', 0, __s32)`.
const INOTIFY_IOC_SETNEXTWD: libc::Ioctl = 0x4004_4900;

/// A time in seconds and nanoseconds.
pub type Time = (i64, i64);

/// A descriptor that a system call has just returned.
fn fresh(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the callers pass what a call returned that makes a descriptor: nobody else has it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes a counter by eventfd(2). It is readable when it is not 0.
pub fn event_counter(semaphore: bool) -> io::Result<OwnedFd> {
    let flag = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: the call takes numbers only.
    fresh(unsafe { libc::eventfd(0, flag | libc::EFD_CLOEXEC) }.into())
}

/// Makes a timer by timerfd_create(2) that is not armed.
pub fn timer(clock: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    fresh(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) }.into())
}

/// Reads the interval and the time left of a timer. The expirations of an interval that has passed
/// are counted by this, as a read of the timer would count them.
pub fn timer_left(timer: BorrowedFd) -> io::Result<(Time, Time)> {
    // SAFETY: itimerspec is plain numbers: all zero is one.
    let mut found: libc::itimerspec = unsafe { std::mem::zeroed() };
    // SAFETY: found is a valid place for the kernel to write to.
    check(unsafe { libc::timerfd_gettime(timer.as_raw_fd(), &raw mut found) }.into())?;
    let time = |time: libc::timespec| (time.tv_sec, time.tv_nsec);
    Ok((time(found.it_interval), time(found.it_value)))
}

/// Arms a timer, by the flags of timerfd_settime(2). A value of zero disarms it.
pub fn arm_timer(timer: BorrowedFd, flags: i32, interval: Time, value: Time) -> io::Result<()> {
    let time = |(tv_sec, tv_nsec): Time| libc::timespec { tv_sec, tv_nsec };
    let new = libc::itimerspec {
        it_interval: time(interval),
        it_value: time(value),
    };
    // SAFETY: the kernel reads new, and writes nothing.
    let set = unsafe {
        libc::timerfd_settime(
            timer.as_raw_fd(),
            flags,
            &raw const new,
            std::ptr::null_mut(),
        )
    };
    check(set.into()).map(drop)
}

/// Sets how often a timer has expired since it was read; not to 0.
pub fn set_timer_ticks(timer: BorrowedFd, ticks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the eight bytes of ticks.
    check(unsafe { libc::ioctl(timer.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) }.into())
        .map(drop)
}

/// The time of a clock.
pub fn clock(clock: i32) -> io::Result<Time> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: now is a valid place for the kernel to write to.
    check(unsafe { libc::clock_gettime(clock, &raw mut now) }.into())?;
    Ok((now.tv_sec, now.tv_nsec))
}

/// Makes a file that shows these signals, by signalfd(2): bit N - 1 for signal N.
pub fn signals(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the eight bytes of mask.
    let made = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            SIGSET_BYTES,
            libc::SFD_CLOEXEC,
        )
    };
    fresh(made)
}

/// Makes a file for epoll(7) that watches nothing yet.
pub fn poll_set() -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    fresh(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())
}

/// True if a descriptor of a process is the file that an entry of a poll set watches. `set` is the
/// set of a process; the entry is the one with this number, of several the one of that place.
pub fn is_watched(
    (pid, fd): (i32, i32),
    (owner, set): (i32, i32),
    number: i32,
    place: u32,
) -> io::Result<bool> {
    // struct kcmp_epoll_slot.
    let slot = [set as u32, number as u32, place];
    // SAFETY: the kernel reads the three numbers of slot.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            owner,
            KCMP_EPOLL_TFD,
            fd as libc::c_ulong,
            slot.as_ptr(),
        )
    };
    check(order).map(|order| order == 0)
}

/// Makes a file for inotify(7) without watches.
pub fn watches() -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    fresh(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into())
}

/// Has the next watch get this number; an error if the kernel cannot do that.
pub fn choose_next_watch(file: BorrowedFd, number: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::ioctl(file.as_raw_fd(), INOTIFY_IOC_SETNEXTWD, number) }.into()).map(drop)
}

/// Adds a watch, and answers its number.
pub fn add_watch(file: BorrowedFd, path: &[u8], mask: u32) -> io::Result<i32> {
    let path = std::ffi::CString::new(path)?;
    // SAFETY: the path lives through the call.
    let added = unsafe { libc::inotify_add_watch(file.as_raw_fd(), path.as_ptr(), mask) };
    check(added.into()).map(|number| number as i32)
}

/// Removes a watch.
pub fn remove_watch(file: BorrowedFd, number: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::inotify_rm_watch(file.as_raw_fd(), number) }.into()).map(drop)
}

/// Reads all events, and forgets them.
pub fn drain(file: BorrowedFd) -> io::Result<()> {
    let mut events = [0u8; 4096];
    while is_ready(file, libc::POLLIN)? {
        // SAFETY: the kernel writes at most the length of events.
        let read = unsafe { libc::read(file.as_raw_fd(), events.as_mut_ptr().cast(), 4096) };
        check(read as libc::c_long)?;
    }
    Ok(())
}

/// Opens a file by its handle, for its path only. `mount` is a file of the same file system.
pub fn open_by_handle(mount: BorrowedFd, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    // struct file_handle: length, kind, bytes.
    let mut bytes = (handle.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a handle of the length that is in its first number.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            bytes.as_ptr(),
            flags,
        )
    };
    fresh(opened)
}

/// True if a file is ready for any of these events now (poll(2)).
pub fn is_ready(file: BorrowedFd, events: i16) -> io::Result<bool> {
    Ok(ready_for(file, events)? != 0)
}

/// Those of these events for which a file is ready now. An error and a hang-up are always told.
pub fn ready_for(file: BorrowedFd, events: i16) -> io::Result<i16> {
    let mut asked = libc::pollfd {
        fd: file.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: asked is one pollfd, as the count says.
    check(unsafe { libc::poll(&raw mut asked, 1, 0) }.into())?;
    Ok(asked.revents)
}

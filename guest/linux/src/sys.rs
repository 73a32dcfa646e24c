//! System calls that the standard library does not offer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A clock of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time of day.
    Realtime,
    /// Time since some start, without the time that the machine was suspended.
    Monotonic,
    /// Time since boot, with it.
    Boottime,
}

impl Clock {
    /// Every clock that is watched.
    pub const ALL: [Clock; 3] = [Clock::Realtime, Clock::Monotonic, Clock::Boottime];

    /// Reads the clock, in nanoseconds.
    pub fn now_ns(self) -> i64 {
        let id = match self {
            Clock::Realtime => libc::CLOCK_REALTIME,
            Clock::Monotonic => libc::CLOCK_MONOTONIC,
            Clock::Boottime => libc::CLOCK_BOOTTIME,
        };
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: time is a valid timespec for the kernel to fill; it fails only for an unknown id.
        unsafe { libc::clock_gettime(id, &mut time) };
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero cpu_set_t is an empty set, and cpu is within its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: set lives through the call, the size is its own; thread 0 is the caller.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// The CPU that the calling thread is on.
pub fn current_cpu() -> io::Result<usize> {
    // SAFETY: takes no arguments.
    check(unsafe { libc::sched_getcpu() }).map(|cpu| cpu as usize)
}

/// A timer that fires periodically.
pub struct PeriodicTimer(OwnedFd);

impl PeriodicTimer {
    /// Starts a timer on the monotonic clock. `period` must be less than a second and not zero.
    pub fn start(period: Duration) -> io::Result<PeriodicTimer> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) })?;
        // SAFETY: fd was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: period.subsec_nanos().into(),
        };
        let setting = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: setting lives through the call; the old setting is not asked for.
        check(unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &setting, std::ptr::null_mut()) })?;
        Ok(PeriodicTimer(fd))
    }

    /// Sleeps until the timer has fired and tells how often it did.
    pub fn wait(&self) -> io::Result<u64> {
        let mut fired = [0u8; 8];
        // SAFETY: the kernel writes at most the 8 bytes of fired.
        let length =
            unsafe { libc::read(self.0.as_raw_fd(), fired.as_mut_ptr().cast(), fired.len()) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::from_ne_bytes(fired))
    }
}

/// Mounts an ext4 file system.
pub fn mount_ext4(device: &CStr, place: &CStr, read_only: bool) -> io::Result<()> {
    let flags = if read_only { libc::MS_RDONLY } else { 0 };
    // SAFETY: all strings are terminated and live through the call; there is no further data.
    check(unsafe {
        libc::mount(
            device.as_ptr(),
            place.as_ptr(),
            c"ext4".as_ptr(),
            flags,
            std::ptr::null(),
        )
    })
    .map(drop)
}

/// Gives up root for good: this process becomes that of the user and group `nobody`.
pub fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: an empty list is not read.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setgid(NOBODY) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setuid(NOBODY) }).map(drop)
}

/// A vsock socket, with a port of its own if `source_port` names one.
pub fn vsock_socket(source_port: Option<u32>) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let made =
        check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    if let Some(port) = source_port {
        let own = vsock_address(libc::VMADDR_CID_ANY, port);
        let length = size_of_val(&own) as libc::socklen_t;
        // SAFETY: own is a sockaddr_vm of that length and lives through the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const own).cast(), length) })?;
    }
    Ok(socket)
}

/// Connects a vsock socket.
pub fn vsock_connect(socket: BorrowedFd, cid: u32, port: u32) -> io::Result<()> {
    let peer = vsock_address(cid, port);
    let length = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: peer is a sockaddr_vm of that length and lives through the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const peer).cast(), length) }).map(drop)
}

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

/// Unmounts what is mounted at `place`.
pub fn unmount(place: &CStr) -> io::Result<()> {
    // SAFETY: place is terminated and lives through the call.
    check(unsafe { libc::umount(place.as_ptr()) }).map(drop)
}

/// Writes everything that is dirty to the disks.
pub fn sync() {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::sync() }
}

/// A way to end the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// ACPI power-off.
    PowerOff,
    /// Reset.
    Reboot,
}

/// Ends the machine; returns only if it does not.
pub fn end_machine(ending: Ending) -> io::Result<()> {
    let command = match ending {
        Ending::PowerOff => libc::RB_POWER_OFF,
        Ending::Reboot => libc::RB_AUTOBOOT,
    };
    // SAFETY: takes no pointers.
    check(unsafe { libc::reboot(command) }).map(drop)
}

/// Switches the echo of a terminal off, so that what it sends is only what we print. Not a
/// terminal: no matter.
pub fn switch_echo_off(terminal: BorrowedFd) -> io::Result<()> {
    // SAFETY: an all-zero termios is a valid value to be overwritten.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: settings is a valid termios for the C library to fill.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut settings) })?;
    settings.c_lflag &= !(libc::ECHO | libc::ECHONL);
    // SAFETY: settings was filled by tcgetattr.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &settings) }).map(drop)
}

/// Waits until a terminal has sent everything.
pub fn drain(terminal: BorrowedFd) {
    // SAFETY: takes no pointers; failing (not a terminal) leaves nothing to wait for.
    unsafe { libc::tcdrain(terminal.as_raw_fd()) };
}

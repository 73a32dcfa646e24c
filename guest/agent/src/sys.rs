//! System calls that the standard library does not offer.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nvvmm_protocol::TerminalSize;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Waits for any of the descriptors in `entries`; repeats when a signal comes.
fn poll(entries: &mut [libc::pollfd]) -> io::Result<()> {
    loop {
        // SAFETY: the pointer and the count are those of a live slice.
        match check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, -1) })
        {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn entry(fd: BorrowedFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

/// Waits until one of two descriptors can be read, or has come to its end; says which.
pub fn wait_readable(fds: [BorrowedFd; 2]) -> io::Result<[bool; 2]> {
    let mut entries = fds.map(|fd| entry(fd, libc::POLLIN));
    poll(&mut entries)?;
    Ok(entries.map(|entry| entry.revents != 0))
}

/// Waits until `sink` can be written, or has no reader. Returns false when the other side of
/// `stream` has ended it before.
pub fn wait_writable_unless_ended(sink: BorrowedFd, stream: BorrowedFd) -> io::Result<bool> {
    let mut entries = [entry(sink, libc::POLLOUT), entry(stream, libc::POLLRDHUP)];
    poll(&mut entries)?;
    Ok(entries[0].revents != 0)
}

/// Lets reads and writes return where they would wait.
pub fn set_nonblocking(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// A new pseudo-terminal: the side that is ours, and the program's.
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: takes no pointers.
    let ours =
        check(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    // SAFETY: takes no pointers.
    check(unsafe { libc::unlockpt(ours.as_raw_fd()) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes no pointers; opens the other side without its name, so also where /dev/pts is
    // not mounted.
    let theirs = check(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    // Opened once more, because that call leaves O_CLOEXEC among the flags of the open file itself.
    // From then on /proc shows all of its descriptors as closed on exec.
    let mut again = File::options();
    again.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let theirs = again.open(format!("/proc/self/fd/{}", theirs.as_raw_fd()))?;
    Ok((ours, theirs.into()))
}

/// Sets the size of a terminal; the programs on it are told.
pub fn resize(terminal: BorrowedFd, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: size lives through the call, which only reads it.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Makes the program of `command` begin with no signal ignored or blocked. A service manager or a
/// shell may have started the agent with the keys' signals ignored.
pub fn with_usual_signals(command: &mut Command) {
    let usual = || {
        for signal in 1..=libc::SIGRTMAX() {
            // SAFETY: SIG_DFL installs no handler. It fails for the few that cannot be ignored, and
            // for the C library's own.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: an all-zero sigset_t is a valid value to be overwritten.
        let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: none lives through the call.
        check(unsafe { libc::sigemptyset(&mut none) })?;
        // SAFETY: none lives through the call; the former mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    // SAFETY: between fork and exec only signal(2), sigemptyset(3) and pthread_sigmask(3) are
    // called; none allocates or locks.
    unsafe { command.pre_exec(usual) };
}

/// A vsock stream to `port` of `cid`, from a free one of `source_ports`. Ports below 1024 need
/// CAP_NET_BIND_SERVICE (`__vsock_bind_connectible` of Linux).
///
/// # Errors
/// `AddrInUse`: none of the ports is free. Else what bind(2) or connect(2) says.
pub fn connect_from(
    source_ports: impl Iterator<Item = u32>,
    cid: u32,
    port: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let made =
        check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    let bind = |source_port| {
        let own = vsock_address(libc::VMADDR_CID_ANY, source_port);
        // SAFETY: own is a sockaddr_vm of that length and lives through the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const own).cast(), length) })
    };
    let is_taken =
        |bound: &io::Result<_>| matches!(bound, Err(e) if e.kind() == io::ErrorKind::AddrInUse);
    let mut bound = source_ports.map(bind).skip_while(is_taken);
    bound.next().ok_or(io::ErrorKind::AddrInUse)??;
    let peer = vsock_address(cid, port);
    // SAFETY: peer is a sockaddr_vm of that length and lives through the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const peer).cast(), length) })?;
    Ok(socket)
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

/// A netlink socket at which the kernel tells of sockets, and ends them.
pub struct DiagSocket(OwnedFd);

impl DiagSocket {
    /// Most bytes of one answer: the kernel's own bound.
    const BYTES: usize = 64 << 10;

    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers.
        let made = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) })?;
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(made) }))
    }

    /// Sends a message to the kernel.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let (bytes, length) = (message.as_ptr().cast(), message.len());
        // SAFETY: pointer and length are those of a live slice, which is only read. A socket that
        // is not connected sends to the kernel.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes, length, 0) };
        check(sent as libc::c_int).map(drop)
    }

    /// Waits for an answer.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; Self::BYTES];
        let place = bytes.as_mut_ptr().cast();
        // SAFETY: pointer and length are those of a live, exclusively borrowed buffer.
        let read = unsafe { libc::recv(self.0.as_raw_fd(), place, Self::BYTES, 0) };
        bytes.truncate(check(read as libc::c_int)? as usize);
        Ok(bytes)
    }
}

/// Moves this thread into a network of its own. False where that is not allowed.
#[cfg(test)]
pub fn enter_own_network() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

/// Ignores a signal from now on, in all of this process.
#[cfg(test)]
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Makes the program of `command` the leader of a session whose terminal is its standard input.
pub fn lead_session(command: &mut Command) {
    let lead = || {
        // SAFETY: takes no arguments.
        check(unsafe { libc::setsid() })?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
    };
    // SAFETY: between fork and exec only setsid(2) and ioctl(2) are called; neither allocates nor
    // locks.
    unsafe { command.pre_exec(lead) };
}

/// Waits until a child has ended, and leaves it to be reaped. Not by wait(2): while another thread
/// of this process captures the child, that would be told of its stops, and keep them from the
/// other thread.
pub fn wait_for_exit(child: u32) {
    // SAFETY: takes no pointers.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    // An error says that there is no such child, so nothing to wait for.
    let Ok(fd) = check(opened as libc::c_int) else {
        return;
    };
    // SAFETY: the descriptor was just made and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = poll(&mut [entry(fd.as_fd(), libc::POLLIN)]);
}

/// Reaps a child that has ended.
pub fn reap(child: u32) -> io::Result<ExitStatus> {
    let mut status = 0;
    loop {
        // SAFETY: status lives through the call.
        match check(unsafe { libc::waitpid(child as libc::pid_t, &mut status, 0) }) {
            Ok(_) => return Ok(ExitStatus::from_raw(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends a program a hang-up; if it leads a process group, the whole group.
pub fn hang_up(program: u32) {
    let Ok(program) = libc::pid_t::try_from(program) else {
        return;
    };
    // SAFETY: takes no pointers.
    let leads = unsafe { libc::getpgid(program) } == program;
    // SAFETY: takes no pointers. What has ended already is no matter.
    unsafe { libc::kill(if leads { -program } else { program }, libc::SIGHUP) };
}

/// Mixes random bytes into the kernel's entropy, credits them, and has its generators take them up
/// at once.
pub fn add_entropy(seed: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` (random(4)).
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        size_bytes: libc::c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    let pool = Pool {
        entropy_bits: 256,
        size_bytes: 32,
        bytes: *seed,
    };
    let device = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: pool is laid out as the call expects and lives through it; the call reads size_bytes
    // bytes of it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &pool) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}

/// Sets the time of day, in nanoseconds since 1970.
pub fn set_time_of_day(unix_ns: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (unix_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (unix_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: time lives through the call, which only reads it.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(drop)
}

/// Mounts a file system of the kernel's own, unless it is mounted there already.
pub fn mount(kind: &CStr, place: &CStr, flags: libc::c_ulong, options: &CStr) -> io::Result<()> {
    // SAFETY: all strings are terminated and live through the call.
    let mounted = check(unsafe {
        libc::mount(
            kind.as_ptr(),
            place.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    });
    match mounted {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.map(drop),
    }
}

/// Gives this thread mounts of its own.
#[cfg(test)]
pub fn have_own_mounts() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (nothing, all) = (c"".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: all strings are terminated and live through the call; there is no further data.
    check(unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, all, std::ptr::null()) }).map(drop)
}

/// Starts the loopback device (127.0.0.1), if this kernel has one.
pub fn raise_loopback() -> io::Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointers.
    let socket = match check(unsafe { libc::socket(libc::AF_INET, kind, 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
        // SAFETY: the descriptor was just made and nobody else has it.
        other => unsafe { OwnedFd::from_raw_fd(other?) },
    };
    // SAFETY: ifreq is plain numbers: all zero is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: request lives through the call, which only reads it.
    let raised =
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) });
    match raised {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other.map(drop),
    }
}

/// Mounts an EROFS that is in memory, in the way that its files are used where they are.
pub fn mount_dax(device: &CStr, place: &CStr) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all strings are terminated and live through the call.
    check(unsafe {
        libc::mount(
            device.as_ptr(),
            place.as_ptr(),
            c"erofs".as_ptr(),
            flags,
            c"dax=always".as_ptr().cast(),
        )
    })
    .map(drop)
}

/// Ends a mount, unless something uses it.
pub fn unmount(place: &CStr) -> io::Result<()> {
    // SAFETY: place is terminated and lives through the call.
    check(unsafe { libc::umount2(place.as_ptr(), 0) }).map(drop)
}

/// True if a file is used in place in memory, without a page cache.
pub fn is_dax(file: &File) -> io::Result<bool> {
    // SAFETY: an all-zero struct statx is a valid value to be overwritten.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is terminated, and found lives through the call, which writes one struct
    // statx.
    check(unsafe {
        libc::statx(
            file.as_raw_fd(),
            path,
            flags,
            libc::STATX_BASIC_STATS,
            &mut found,
        )
    })?;
    Ok(found.stx_attributes & libc::STATX_ATTR_DAX as u64 != 0)
}

/// Loads a module of the kernel, unless it is loaded already.
pub fn load_module(file: &File) -> io::Result<()> {
    let parameters = CString::default();
    // SAFETY: parameters is terminated and lives through the call.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    match check(loaded as libc::c_int) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// Waits until any child of this process has ended, and reaps it; also those that others have left
/// to the first process.
pub fn reap_any() -> io::Result<u32> {
    loop {
        // SAFETY: the status is not asked for.
        match check(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }) {
            Ok(child) => return Ok(child as u32),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Switches the machine off; returns only if that is not possible.
pub fn power_off() -> io::Result<()> {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::sync() };
    // SAFETY: takes no pointers.
    check(unsafe { libc::reboot(libc::RB_POWER_OFF) }).map(drop)
}

//! System calls and the `unsafe` they need, each behind a safe function.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, fork};

/// True if this process was started without stdout.
static STDOUT_IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before the standard library opens /dev/null in the place of a standard stream that is
/// closed.
extern "C" fn look_at_stdout() {
    // SAFETY: F_GETFD takes no memory.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_IS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the C library calls the functions in this section before `main`, while there is one
// thread. The function needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

/// Tells if this process was started without stdout (`>&-`).
pub fn is_stdout_closed() -> bool {
    // So that the linker keeps it.
    std::hint::black_box(&LOOK_AT_STDOUT);
    STDOUT_IS_CLOSED.load(Ordering::Relaxed)
}

/// Side of a process after [`fork_alone`].
pub enum Side {
    /// The process that forked.
    Parent(nix::unistd::Pid),
    /// The new process. It ignores the signals of the terminal.
    Child,
}

/// Makes a copy of this process, which has one thread only: locks of other threads would stay
/// locked in the copy.
///
/// # Errors
/// This process has other threads, or fork(2) failed.
pub fn fork_alone() -> io::Result<Side> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has other threads"));
    }
    // SAFETY: there is no other thread, so no lock is held that the child cannot release.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => {
            for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                // SAFETY: no handler is installed; ignoring a signal runs no code.
                unsafe { signal(ignored, SigHandler::SigIgn) }?;
            }
            Ok(Side::Child)
        }
    }
}

/// Has a signal do again what it does by default, if the caller of this process had it ignored.
///
/// # Errors
/// There is no such signal, or its action cannot be changed.
pub fn take_default_action(number: libc::c_int) -> io::Result<()> {
    // SAFETY: the default action runs no code of this process. Whoever installs a handler does that
    // later.
    match unsafe { libc::signal(number, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has the system forget each child of this process as soon as it ends. Nobody can wait for one
/// from then on.
///
/// # Errors
/// The system's answer.
pub fn forget_children_that_end() -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(())
}

/// Takes the signals that the caller of this process had blocked or ignored, but those that this
/// program ignores itself. To be called before any handler is installed.
///
/// # Errors
/// The system's answer.
pub fn forget_signals_of_caller() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for number in 1..=libc::SIGRTMAX() {
        let own = [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGKILL, libc::SIGSTOP];
        // Some numbers are glibc's own.
        if !own.contains(&number) && !(32..libc::SIGRTMIN()).contains(&number) {
            take_default_action(number)?;
        }
    }
    Ok(())
}

/// Makes a system call by its number. Release builds lack this: tests try with it what a confined
/// process must not do.
#[cfg(debug_assertions)]
pub fn call(number: i64, arguments: [usize; 4]) -> io::Result<i64> {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers, which are tests, pass numbers and null pointers only: the kernel reads
    // and writes no memory of this process.
    match unsafe { libc::syscall(number, a, b, c, d, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

/// ABI of the kernel's Landlock, 0 without it (landlock_create_ruleset(2)).
pub fn landlock_abi() -> u32 {
    /// `LANDLOCK_CREATE_RULESET_VERSION`.
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no structure, and returns a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Has all threads of this process allocate from one heap. Each other one would take memory that
/// nobody uses, and a page of page tables.
pub fn keep_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: changes a setting of the allocator, which may be done at any time.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Gives the free memory of the heap back to the system.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: gives back pages that are in no allocation.
        unsafe { libc::malloc_trim(0) };
    }
}

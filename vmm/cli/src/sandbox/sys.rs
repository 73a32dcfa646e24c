//! System calls of the sandbox, and all `unsafe` of it.

use std::io;
use std::mem::zeroed;
use std::os::fd::RawFd;
use std::sync::OnceLock;

/// Told of a forbidden system call: its number and the thread's name. Must be safe in a signal
/// handler.
type Listener = fn(u32, &[u8]);

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Offset of the system call's number in `siginfo_t` of a SIGSYS (sigaction(2)): behind three
/// integers, their padding, and the address of the call.
const SIGINFO_CALL_AT: usize = 24;
/// Size of a thread's name with its NUL (prctl(2), PR_GET_NAME).
const THREAD_NAME_BYTES: usize = 16;
/// A system call that no filter allows.
const NEVER_ALLOWED: libc::c_long = libc::SYS_reboot;

/// Calls `listener` when a filter traps a system call of a thread; then the kernel ends the process
/// with SIGSYS. Filters must forbid that the handler is replaced.
///
/// # Errors
/// What sigaction(2) says.
pub fn on_forbidden_call(listener: Listener) -> io::Result<()> {
    LISTENER.get_or_init(|| listener);
    // SAFETY: zeros are a valid sigaction: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = on_sigsys as *const () as libc::sighandler_t;
    // SAFETY: the action is a whole one, and its handler is safe in a signal handler: it reads a
    // cell that is set by now, formats on the stack and makes system calls.
    let done = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let mut name = [0u8; THREAD_NAME_BYTES];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, which `name` has.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let len = name.iter().position(|byte| *byte == 0);
    // SAFETY: the kernel gives a whole siginfo_t, of 128 bytes, to a handler with SA_SIGINFO.
    let number = unsafe {
        info.cast::<u8>()
            .add(SIGINFO_CALL_AT)
            .cast::<u32>()
            .read_unaligned()
    };
    if let Some(listener) = LISTENER.get() {
        listener(number, &name[..len.unwrap_or(name.len())]);
    }
    // SIGSYS is blocked in its handler, so the next one ends the process by that signal
    // (force_sig(), signal(7)).
    // SAFETY: reboot(2) with these magic numbers does nothing but fail with EINVAL, should it not
    // be trapped; _exit ends the process.
    unsafe {
        libc::syscall(NEVER_ALLOWED, 0, 0, 0, 0);
        libc::_exit(128 + libc::SIGSYS);
    }
}

/// Writes to stderr once, whatever comes of it; safe in a signal handler.
pub fn write_stderr(bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// Forks this process, which must have one thread. The child runs `child` and ends.
///
/// # Errors
/// What fork(2) says.
pub fn fork(child: impl FnOnce()) -> io::Result<()> {
    // SAFETY: the process has one thread, so the child has all of its locks and memory in order; it
    // never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            child();
            // SAFETY: ends the child without the destructors and buffers of its parent.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}

/// Closes all descriptors but standard streams and `kept`.
pub fn close_all_but(kept: RawFd) {
    let kept = kept as libc::c_uint;
    if kept > 3 {
        // SAFETY: the caller uses no descriptor but `kept` from now on.
        unsafe { libc::close_range(3, kept - 1, 0) };
    }
    close_from(kept + 1);
}

/// Closes all descriptors from this one on, which nobody in this process uses.
pub fn close_from(first: libc::c_uint) {
    // SAFETY: the caller and all of this process use none of them from now on.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
}

/// Ignores the signals that ask a process to end.
pub fn ignore_requests_to_end() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Makes a system call whose arguments are numbers or strings that live through it; gives the
/// result, or the error's number below 0. For probes.
#[cfg(debug_assertions)]
pub fn call(number: libc::c_long, arguments: [usize; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: only probes call this, with pointers to strings and structures that live through the
    // call, and with calls that do not write to memory of this process.
    let done = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match done {
        -1 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        done => done,
    }
}

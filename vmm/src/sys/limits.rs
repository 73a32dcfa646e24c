//! Limits of this process, and descriptors that it has from whoever started it.

use std::io;

use super::check;

/// Ignores SIGXFSZ from here on: a write beyond the limit of a file's size (RLIMIT_FSIZE,
/// setrlimit(2)) then fails with EFBIG instead of ending the process without a word.
pub fn ignore_file_size_signal() {
    // SAFETY: signal(2) with SIG_IGN installs no handler, so no code runs in a signal's context.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Largest file in bytes that this process may write; `None` when there is no limit.
///
/// # Errors
/// The system's answer.
pub fn file_size_max_bytes() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit(2) writes one rlimit, which lives across the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) })?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Closes the descriptors that this process has from its parent, but the standard streams and
/// `kept`. Call it before anything is opened.
///
/// # Errors
/// The system's answer.
pub fn close_inherited(kept: &[u32]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().copied().filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd.saturating_add(1));
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: close_range(2) takes numbers. The caller has opened nothing, so no object of this
    // process owns one of these descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(closed as libc::c_int)
}

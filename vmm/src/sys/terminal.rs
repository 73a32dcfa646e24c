//! Size of a terminal.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nvvmm_protocol::TerminalSize;

use super::check;

/// Size of the terminal behind `fd`.
///
/// # Errors
/// There is no terminal behind it.
pub fn size_of(fd: BorrowedFd) -> io::Result<TerminalSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a winsize (ioctl_tty(2)), which size is, and which lives through
    // the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

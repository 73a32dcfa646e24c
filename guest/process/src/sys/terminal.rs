use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

const TERMIOS_BYTES: usize = size_of::<libc::termios>();

/// The modes of a terminal, as the bytes of a `struct termios`; None for what is no terminal.
pub fn terminal_modes(fd: BorrowedFd) -> Option<Vec<u8>> {
    let mut modes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: modes has room for the termios that tcgetattr writes.
    check(unsafe { libc::tcgetattr(fd.as_raw_fd(), modes.as_mut_ptr()) }.into()).ok()?;
    // SAFETY: termios is plain numbers, all of it was zeroed first, and the array has its size.
    let bytes: [u8; TERMIOS_BYTES] = unsafe { std::mem::transmute(modes) };
    Some(bytes.to_vec())
}

/// Sets the modes of a terminal.
pub fn set_terminal_modes(fd: BorrowedFd, modes: &[u8]) -> io::Result<()> {
    let bytes: [u8; TERMIOS_BYTES] = modes.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: termios is plain numbers: any bytes of its size are one.
    let modes: libc::termios = unsafe { std::mem::transmute(bytes) };
    // SAFETY: modes is a valid termios that tcsetattr only reads.
    check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, &modes) }.into()).map(drop)
}

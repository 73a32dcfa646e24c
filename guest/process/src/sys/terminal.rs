//! Terminals: modes, and the two ends of pseudo-terminals (pty(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const TERMIOS_BYTES: usize = size_of::<libc::termios>();

/// `struct termios2`: all modes, with speeds that are any number.
pub type ModeBytes = [u8; 44];
/// Rows, columns, and the same in pixels.
pub type WindowSize = [u16; 4];

/// Requests of ioctl(2) that libc does not have, or has for other targets only.
const TCGETS2: libc::Ioctl = 0x802c_542a;
const TCSETS2: libc::Ioctl = 0x402c_542b;
const TIOCGLCKTRMIOS: libc::Ioctl = 0x5456;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGDEV: libc::Ioctl = 0x8004_5432;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
/// `struct termios` of the kernel.
const KERNEL_TERMIOS_BYTES: usize = 36;

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

/// Asks for what a request writes to so many bytes, which is at most their number.
fn ask<const N: usize>(fd: BorrowedFd, request: libc::Ioctl) -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: the callers pass requests of which the kernel writes N bytes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_mut_ptr()) }.into())?;
    Ok(bytes)
}

/// Makes a request of which the kernel reads so many bytes.
fn tell<const N: usize>(fd: BorrowedFd, request: libc::Ioctl, bytes: [u8; N]) -> io::Result<()> {
    // SAFETY: the callers pass requests of which the kernel reads N bytes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_ptr()) }.into()).map(drop)
}

fn ask_number(fd: BorrowedFd, request: libc::Ioctl) -> io::Result<i32> {
    ask(fd, request).map(i32::from_ne_bytes)
}

/// All modes of a pseudo-terminal, by either end.
pub fn all_modes(fd: BorrowedFd) -> io::Result<ModeBytes> {
    ask(fd, TCGETS2)
}

/// Sets all modes, also where the terminal is the controlling one of others.
pub fn set_all_modes(fd: BorrowedFd, modes: &ModeBytes) -> io::Result<()> {
    tell(fd, TCSETS2, *modes)
}

/// True if some modes cannot be changed (TIOCSLCKTRMIOS).
pub fn has_locked_modes(fd: BorrowedFd) -> io::Result<bool> {
    let locked: [u8; KERNEL_TERMIOS_BYTES] = ask(fd, TIOCGLCKTRMIOS)?;
    Ok(locked.iter().any(|byte| *byte != 0))
}

/// The size of a terminal's window.
pub fn window_size(fd: BorrowedFd) -> io::Result<WindowSize> {
    let bytes: [u8; 8] = ask(fd, libc::TIOCGWINSZ)?;
    let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    Ok([number(0), number(2), number(4), number(6)])
}

/// Sets the size of a terminal's window.
pub fn set_window_size(fd: BorrowedFd, size: WindowSize) -> io::Result<()> {
    let mut bytes = [0u8; 8];
    for (place, number) in bytes.chunks_exact_mut(2).zip(size) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    tell(fd, libc::TIOCSWINSZ, bytes)
}

/// The number of a pseudo-terminal, by its master.
pub fn terminal_number(master: BorrowedFd) -> io::Result<u32> {
    ask_number(master, TIOCGPTN).map(|number| number as u32)
}

/// The device of the terminal that an open file is of, as /proc/PID/stat has it.
pub fn terminal_device(fd: BorrowedFd) -> io::Result<u32> {
    ask_number(fd, TIOCGDEV).map(|number| number as u32)
}

/// Lets others open the other end of a master.
pub fn unlock_terminal(master: BorrowedFd) -> io::Result<()> {
    tell(master, TIOCSPTLCK, 0i32.to_ne_bytes())
}

/// Opens the other end of a master; it becomes nobody's controlling terminal. O_CLOEXEC among the
/// flags stays with the open file, and /proc shows it of all who get that. The descriptor here has
/// it in any case.
pub fn open_peer(master: BorrowedFd, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_NOCTTY;
    // SAFETY: the calls take numbers only; what the first one returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags).into())?;
        let opened = OwnedFd::from_raw_fd(fd as i32);
        check(libc::fcntl(opened.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC).into())?;
        Ok(opened)
    }
}

/// True if a master is in packet mode.
pub fn has_packets(master: BorrowedFd) -> io::Result<bool> {
    ask_number(master, TIOCGPKT).map(|on| on != 0)
}

/// Switches the packet mode of a master.
pub fn set_packets(master: BorrowedFd, on: bool) -> io::Result<()> {
    tell(master, libc::TIOCPKT, i32::from(on).to_ne_bytes())
}

/// True if nobody else can open a terminal (TIOCEXCL).
pub fn is_exclusive(fd: BorrowedFd) -> io::Result<bool> {
    ask_number(fd, TIOCGEXCL).map(|on| on != 0)
}

/// The foreground process group of a pseudo-terminal, by its master. 0: none.
pub fn foreground(master: BorrowedFd) -> io::Result<i32> {
    ask_number(master, libc::TIOCGPGRP)
}

/// Number of bytes that can be read from a terminal.
pub fn queued(fd: BorrowedFd) -> io::Result<usize> {
    ask_number(fd, libc::FIONREAD).map(|count| count.max(0) as usize)
}

/// Has a terminal receive a byte, at once.
pub fn insert_byte(terminal: BorrowedFd, byte: u8) -> io::Result<()> {
    tell(terminal, libc::TIOCSTI, [byte])
}

/// Stops the output of a terminal, or lets it go on after that (tcflow(3)).
pub fn set_flow(terminal: BorrowedFd, on: bool) -> io::Result<()> {
    let action = if on { libc::TCOON } else { libc::TCOOFF };
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::tcflow(terminal.as_raw_fd(), action) }.into()).map(drop)
}

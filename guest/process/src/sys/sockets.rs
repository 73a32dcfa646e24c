//! Sockets: addresses, options, and what is in them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Length of the longest address.
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// Makes a socket.
pub fn make_socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only; what it returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Accepts a connection.
pub fn accept(socket: BorrowedFd) -> io::Result<OwnedFd> {
    let fd = socket.as_raw_fd();
    let (nobody, flags) = (std::ptr::null_mut(), libc::SOCK_CLOEXEC);
    // SAFETY: the kernel is given no place for an address; what it returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::accept4(fd, nobody, std::ptr::null_mut(), flags).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The address of a socket, as bind(2) takes it.
pub fn address(socket: BorrowedFd) -> io::Result<Vec<u8>> {
    read_address(|place, len| {
        // SAFETY: the kernel writes at most the length that len says, which is that of place.
        unsafe { libc::getsockname(socket.as_raw_fd(), place, len) }
    })
}

/// The address that a socket is connected to. None: it is not connected.
pub fn peer_address(socket: BorrowedFd) -> io::Result<Option<Vec<u8>>> {
    let read = read_address(|place, len| {
        // SAFETY: as above.
        unsafe { libc::getpeername(socket.as_raw_fd(), place, len) }
    });
    match read {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
        read => read.map(Some),
    }
}

fn read_address(
    read: impl FnOnce(*mut libc::sockaddr, &mut libc::socklen_t) -> i32,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; ADDRESS_BYTES];
    let mut len = bytes.len() as libc::socklen_t;
    check(read(bytes.as_mut_ptr().cast(), &mut len).into())?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// Gives a socket an address.
pub fn bind(socket: BorrowedFd, address: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), address.len() as libc::socklen_t);
    // SAFETY: the kernel reads the length of address.
    check(unsafe { libc::bind(fd, address.as_ptr().cast(), len) }.into()).map(drop)
}

/// Connects a socket to an address.
pub fn connect(socket: BorrowedFd, address: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), address.len() as libc::socklen_t);
    // SAFETY: the kernel reads the length of address.
    check(unsafe { libc::connect(fd, address.as_ptr().cast(), len) }.into()).map(drop)
}

/// Has a socket listen.
pub fn listen(socket: BorrowedFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }.into()).map(drop)
}

/// Reads an option of a socket; the answer may be shorter than `len`.
pub fn socket_option(
    socket: BorrowedFd,
    level: i32,
    option: i32,
    len: usize,
) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; len];
    let mut got = len as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel writes at most the length that got says, which is that of value.
    let asked = unsafe {
        let place = value.as_mut_ptr().cast();
        libc::getsockopt(fd, level, option, place, &raw mut got)
    };
    check(asked.into())?;
    value.truncate(got as usize);
    Ok(value)
}

/// Sets an option of a socket.
pub fn set_socket_option(
    socket: BorrowedFd,
    level: i32,
    option: i32,
    value: &[u8],
) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: the kernel reads the length of value.
    let set = unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), len) };
    check(set.into()).map(drop)
}

/// Copies the bytes that a stream has received, and leaves them there. None: there is more than
/// bytes, such as descriptors.
pub fn peek_stream(socket: BorrowedFd) -> io::Result<Option<Vec<u8>>> {
    let fd = socket.as_raw_fd();
    let mut count = 0i32;
    // SAFETY: the kernel writes an int to where count is.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) }.into())?;
    let mut held = vec![0u8; count.max(0) as usize];
    if held.is_empty() {
        return Ok(Some(held));
    }
    let mut part = libc::iovec {
        iov_base: held.as_mut_ptr().cast(),
        iov_len: held.len(),
    };
    // SAFETY: msghdr is plain numbers and pointers: all zero is one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // SAFETY: the message has one part, which describes held; both live through the call.
    let got = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    let whole = check(got as libc::c_long)? as usize == held.len();
    Ok((whole && message.msg_flags & libc::MSG_CTRUNC == 0).then_some(held))
}

/// Sends all of these bytes to a stream, without waiting.
pub fn send_all(socket: BorrowedFd, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the kernel reads the length of rest.
        let sent =
            unsafe { libc::send(socket.as_raw_fd(), rest.as_ptr().cast(), rest.len(), flags) };
        rest = &rest[check(sent as libc::c_long)? as usize..];
    }
    Ok(())
}

/// Shuts down directions of a socket: 1 to receive, 2 to send, 3 both.
pub fn shut_down(socket: BorrowedFd, directions: u8) -> io::Result<()> {
    let how = match directions & 3 {
        0 => return Ok(()),
        1 => libc::SHUT_RD,
        2 => libc::SHUT_WR,
        _ => libc::SHUT_RDWR,
    };
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), how) }.into()).map(drop)
}

//! Unix sockets: what the kernel tells of them by sock_diag(7), and what is in them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NETLINK_SOCK_DIAG: i32 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// UDIAG_SHOW_NAME and UDIAG_SHOW_PEER; the shutdown is always shown.
const SHOW: u32 = 1 | 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// Length of `struct nlmsghdr`, and of `struct unix_diag_msg` behind it.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 16;

/// A unix socket, as the kernel describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode number.
    pub inode: u64,
    /// SOCK_STREAM and so on.
    pub kind: i32,
    /// True if it is connected.
    pub connected: bool,
    /// True if it has an address.
    pub named: bool,
    /// The inode number of the socket that it is connected to.
    pub peer: Option<u64>,
    /// The directions that are shut down: 1 to receive, 2 to send.
    pub shut_down: u8,
}

/// Maker of a pair of sockets (`struct ucred`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    pub pid: i32,
    pub user: u32,
    pub group: u32,
}

/// All unix sockets of this network namespace. An error if the kernel cannot list them.
pub fn unix_sockets() -> io::Result<Vec<UnixSocket>> {
    // SAFETY: the call takes numbers only, and makes a descriptor that nobody else has.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = check(libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG).into())?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    // struct nlmsghdr, then struct unix_diag_req: family, states, inode, what to show, cookie.
    let mut request = Vec::new();
    request.extend(40u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16 | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for number in [u32::MAX, 0, SHOW, 0, 0] {
        request.extend(number.to_ne_bytes());
    }
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads the length of request.
    check(unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) } as libc::c_long)?;
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        // SAFETY: the kernel writes at most the length of buffer.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let got = check(got as libc::c_long)? as usize;
        let mut rest = &buffer[..got];
        while rest.len() >= HEADER_BYTES {
            let len = number(rest, 0)? as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if len < HEADER_BYTES || len > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = number(rest, HEADER_BYTES)? as i32;
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => found.push(parse(&rest[HEADER_BYTES..len])?),
            }
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn number(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_ne_bytes)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads a `struct unix_diag_msg` with its attributes.
pub(super) fn parse(message: &[u8]) -> io::Result<UnixSocket> {
    /// TCP_ESTABLISHED, which unix sockets have, too.
    const ESTABLISHED: u8 = 1;
    let inode = number(message, 4)?.into();
    let mut socket = UnixSocket {
        inode,
        kind: message[1].into(),
        connected: message[2] == ESTABLISHED,
        ..UnixSocket::default()
    };
    let mut rest = message.get(MESSAGE_BYTES..).unwrap_or_default();
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let Some(value) = rest.get(4..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match kind {
            UNIX_DIAG_NAME => socket.named = true,
            UNIX_DIAG_PEER => socket.peer = Some(number(value, 0)?.into()).filter(|peer| *peer > 0),
            UNIX_DIAG_SHUTDOWN => socket.shut_down = value.first().copied().unwrap_or(0),
            _ => {}
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    Ok(socket)
}

/// Reads an option of a socket, of the level SOL_SOCKET; the answer may be shorter than `len`.
pub fn socket_option(socket: BorrowedFd, option: i32, len: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; len];
    let mut got = len as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel writes at most the length that got says, which is that of value.
    let asked = unsafe {
        let place = value.as_mut_ptr().cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, option, place, &raw mut got)
    };
    check(asked.into())?;
    value.truncate(got as usize);
    Ok(value)
}

/// Sets an option of a socket, of the level SOL_SOCKET.
pub fn set_socket_option(socket: BorrowedFd, option: i32, value: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: the kernel reads the length of value.
    let set = unsafe {
        let place = value.as_ptr().cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, option, place, len)
    };
    check(set.into()).map(drop)
}

/// Says who made the pair that a socket is of.
pub fn maker(socket: BorrowedFd) -> io::Result<Maker> {
    let value = socket_option(socket, libc::SO_PEERCRED, 12)?;
    Ok(Maker {
        pid: number(&value, 0)? as i32,
        user: number(&value, 4)?,
        group: number(&value, 8)?,
    })
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

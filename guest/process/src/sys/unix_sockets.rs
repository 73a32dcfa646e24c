//! Unix sockets: what the kernel tells of them by sock_diag(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use super::sockets::socket_option;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NETLINK_SOCK_DIAG: i32 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// UDIAG_SHOW_NAME, _VFS, _PEER and _RQLEN; the shutdown is always shown.
const SHOW: u32 = 1 | 2 | 4 | 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// Length of `struct nlmsghdr`, and of `struct unix_diag_msg` behind it.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 16;

/// A unix socket, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode number.
    pub inode: u64,
    /// SOCK_STREAM and so on.
    pub kind: i32,
    /// True if it is connected.
    pub connected: bool,
    /// True if it listens.
    pub listens: bool,
    /// Its address, without the family; empty: it has none.
    pub name: Vec<u8>,
    /// Inode number of the file at its address; 0: it has none.
    pub file: u64,
    /// Number of packets, or of connections that wait to be accepted.
    pub waiting: u32,
    /// The most connections that may wait, of one that listens.
    pub backlog: u32,
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
    const LISTEN: u8 = 10;
    let inode = number(message, 4)?.into();
    let mut socket = UnixSocket {
        inode,
        kind: message[1].into(),
        connected: message[2] == ESTABLISHED,
        listens: message[2] == LISTEN,
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
            UNIX_DIAG_NAME => socket.name = value.to_vec(),
            UNIX_DIAG_VFS => socket.file = number(value, 0)?.into(),
            UNIX_DIAG_RQLEN => {
                (socket.waiting, socket.backlog) = (number(value, 0)?, number(value, 4)?);
            }
            UNIX_DIAG_PEER => socket.peer = Some(number(value, 0)?.into()).filter(|peer| *peer > 0),
            UNIX_DIAG_SHUTDOWN => socket.shut_down = value.first().copied().unwrap_or(0),
            _ => {}
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    Ok(socket)
}

/// Says who made the pair that a socket is of.
pub fn maker(socket: BorrowedFd) -> io::Result<Maker> {
    let value = socket_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, 12)?;
    Ok(Maker {
        pid: number(&value, 0)? as i32,
        user: number(&value, 4)?,
        group: number(&value, 8)?,
    })
}

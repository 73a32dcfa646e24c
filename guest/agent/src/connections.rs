//! TCP connections that cannot live on after a restore.
//!
//! Their other end has gone on without this guest, or talks to another copy of it. A program that
//! waits for data from it would wait for hours: the kernel ends them, and the program is told at
//! once. Connections within the guest live on.

use std::io;
use std::net::IpAddr;

use crate::sys::DiagSocket;

/// States of sockets that have another end: all but closed, listening and those that only wait for
/// late packets (`net/tcp_states.h`).
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const FAMILIES: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];

/// Lengths of structures of `linux/inet_diag.h` and `linux/netlink.h`, in bytes.
const NETLINK_BYTES: usize = 16;
const SOCKET_BYTES: usize = 48;
const REQUEST_BYTES: usize = 8 + SOCKET_BYTES;
/// Offset of the socket in an answer, which begins with its family and state.
const SOCKET_AT: usize = 4;

const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;

/// A TCP socket, as the kernel names it: `struct inet_diag_sockid`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    family: u8,
    id: [u8; SOCKET_BYTES],
}

impl Socket {
    fn address(&self, at: usize) -> IpAddr {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.id[at..at + 16]);
        match i32::from(self.family) {
            libc::AF_INET => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => IpAddr::from(bytes).to_canonical(),
        }
    }

    /// The other end is in this guest, too.
    fn is_within_the_guest(&self) -> bool {
        let (own, other) = (self.address(4), self.address(20));
        other.is_loopback() || own == other
    }
}

/// Ends all TCP connections to other machines. Gives their number.
///
/// # Errors
/// The kernel has no such service (CONFIG_INET_DIAG_DESTROY), or this is not root.
pub fn end_all() -> io::Result<usize> {
    let netlink = match DiagSocket::open() {
        // A kernel without CONFIG_INET_DIAG: nobody can tell what there is.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        opened => opened?,
    };
    let mut ended = 0;
    for family in FAMILIES {
        let sockets = match connected(&netlink, family as u8) {
            // A kernel without that family.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            sockets => sockets?,
        };
        for socket in sockets
            .iter()
            .filter(|socket| !socket.is_within_the_guest())
        {
            ended += usize::from(end(&netlink, socket)?);
        }
    }
    Ok(ended)
}

fn connected(netlink: &DiagSocket, family: u8) -> io::Result<Vec<Socket>> {
    let all = Socket {
        family,
        id: [0; SOCKET_BYTES],
    };
    netlink.send(&request(BY_FAMILY, DUMP, &all))?;
    let mut sockets = Vec::new();
    loop {
        let bytes = netlink.receive()?;
        for (kind, body) in messages(&bytes) {
            match kind {
                DONE => return Ok(sockets),
                ERROR => failure(body)?,
                _ => {
                    let id = body.get(SOCKET_AT..SOCKET_AT + SOCKET_BYTES);
                    if let Some(id) = id.and_then(|id| id.try_into().ok()) {
                        sockets.push(Socket { family, id });
                    }
                }
            }
        }
    }
}

/// Ends a connection. False when it has ended by itself.
fn end(netlink: &DiagSocket, socket: &Socket) -> io::Result<bool> {
    netlink.send(&request(DESTROY, ACKNOWLEDGE, socket))?;
    let bytes = netlink.receive()?;
    let answers = messages(&bytes).filter(|(kind, _)| *kind == ERROR);
    let answer = answers.map(|(_, body)| failure(body)).next();
    match answer.unwrap_or(Ok(())) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        answer => answer.map(|()| true),
    }
}

/// A netlink message with a `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, socket: &Socket) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(NETLINK_BYTES + REQUEST_BYTES);
    bytes.extend(((NETLINK_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    // Sequence number and sender: the kernel answers this socket only.
    bytes.extend([0; 8]);
    bytes.extend([socket.family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(CONNECTED.to_ne_bytes());
    bytes.extend(socket.id);
    bytes
}

/// The messages of a datagram: the kind of each, and what is behind its header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<NETLINK_BYTES>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = bytes.get(NETLINK_BYTES..length)?;
        // The next one begins at a multiple of 4.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The outcome that a message of the kind `ERROR` has: 0, or the error below 0.
fn failure(body: &[u8]) -> io::Result<()> {
    let number = body.first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*number) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

#[cfg(test)]
#[path = "connections_test.rs"]
mod connections_test;

//! Pairs of unix sockets (socketpair(2)) whose both ends are captured.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::unreadable;
use crate::sys;

/// Room for what is sent into a socket that is made again, beside the bytes themselves.
const ROOM_BYTES: usize = 256 << 10;
/// Since Linux 6.5.
const SO_PASSPIDFD: i32 = 76;
/// Since Linux 6.16.
const SO_PASSRIGHTS: i32 = 83;
/// Options that are numbers or times, each with its length. A kernel may lack some.
pub(super) const OPTIONS: [(i32, usize); 15] = [
    (libc::SO_BROADCAST, 4),
    (libc::SO_TIMESTAMP, 4),
    (libc::SO_TIMESTAMPNS, 4),
    (libc::SO_MARK, 4),
    (libc::SO_PASSSEC, 4),
    (SO_PASSPIDFD, 4),
    (SO_PASSRIGHTS, 4),
    (libc::SO_PASSCRED, 4),
    (libc::SO_KEEPALIVE, 4),
    (libc::SO_PRIORITY, 4),
    (libc::SO_RCVLOWAT, 4),
    (libc::SO_REUSEADDR, 4),
    (libc::SO_OOBINLINE, 4),
    (libc::SO_RCVTIMEO, 16),
    (libc::SO_SNDTIMEO, 16),
];

/// Two sockets that are connected to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPair {
    /// SOCK_STREAM and so on.
    pub kind: i32,
    /// Its maker: process, user, group (SO_PEERCRED).
    pub maker: (i32, u32, u32),
    /// Its ends.
    pub ends: [SocketEnd; 2],
}

/// A pair that connect(2) and accept(2) have made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Index in the image's pairs; its maker is who connected.
    pub pair: u32,
    /// The second end was accepted, not the first.
    pub second: bool,
    /// The address of the listener that accepted it, as bind(2) takes it.
    pub address: Vec<u8>,
}

/// One end of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketEnd {
    /// Bytes that it has received.
    pub held: Vec<u8>,
    /// The directions that are shut down: 1 to receive, 2 to send.
    pub shut_down: u8,
    /// SO_SNDBUF and SO_RCVBUF, as the kernel tells them.
    pub buffers: [u32; 2],
    /// Other options of SOL_SOCKET: number and value.
    pub options: Vec<(i32, Vec<u8>)>,
}

impl SocketPair {
    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        let known = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
        if !known.contains(&self.kind) {
            return Some("a socket is of an unknown kind");
        }
        let options = self.ends.iter().flat_map(|end| &end.options);
        let valid = |(option, value): &(i32, Vec<u8>)| OPTIONS.contains(&(*option, value.len()));
        (!options.into_iter().all(valid)).then_some("a socket has an unknown option")
    }
}

impl SocketEnd {
    /// Reads the state of an end whose processes stand still; the inner error says why it cannot
    /// be kept.
    pub fn read(
        kind: i32,
        shut_down: u8,
        copy: BorrowedFd,
    ) -> io::Result<Result<Self, &'static str>> {
        const SO_PEEK_OFF: i32 = 42;
        const NO_OFFSET: [u8; 4] = (-1i32).to_ne_bytes();
        if !sys::socket_option(copy, libc::SOL_SOCKET, libc::SO_GET_FILTER, 0)?.is_empty() {
            return Ok(Err("is a socket with a filter"));
        }
        if sys::socket_option(copy, libc::SOL_SOCKET, SO_PEEK_OFF, 4)? != NO_OFFSET {
            return Ok(Err("is a socket that peeks at an offset (SO_PEEK_OFF)"));
        }
        let held = match kind {
            libc::SOCK_STREAM => sys::peek_stream(copy)?,
            // One that is shut down is always ready.
            _ => (!sys::is_ready(copy, libc::POLLIN)?).then(Vec::new),
        };
        let Some(held) = held else {
            return Ok(Err(
                "is a socket with descriptors or packets on the way, or one for packets that is \
                 shut down",
            ));
        };
        let passes = sys::socket_option(copy, libc::SOL_SOCKET, libc::SO_PASSCRED, 4)? != [0; 4];
        if passes && !held.is_empty() {
            return Ok(Err("is a socket with bytes of a known sender on the way"));
        }
        let number = |option| {
            let value = sys::socket_option(copy, libc::SOL_SOCKET, option, 4)?;
            let value = value.try_into().map_err(|_| unreadable())?;
            io::Result::Ok(u32::from_ne_bytes(value))
        };
        let options = OPTIONS.iter().filter_map(|(option, len)| {
            let value = sys::socket_option(copy, libc::SOL_SOCKET, *option, *len).ok()?;
            Some((*option, value))
        });
        Ok(Ok(Self {
            held,
            shut_down,
            buffers: [number(libc::SO_SNDBUF)?, number(libc::SO_RCVBUF)?],
            options: options.collect(),
        }))
    }

    /// Gives a fresh end of a pair what this one had received, by way of the other one.
    pub fn fill(&self, other: &OwnedFd) -> io::Result<()> {
        let room = (self.held.len() + ROOM_BYTES) as u32;
        let force = libc::SO_SNDBUFFORCE;
        sys::set_socket_option(other.as_fd(), libc::SOL_SOCKET, force, &room.to_ne_bytes())?;
        sys::send_all(other.as_fd(), &self.held)
    }

    /// Sets the options of an end, and shuts it down, once both ends are filled.
    pub fn finish(&self, made: &OwnedFd) -> io::Result<()> {
        let force = [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE];
        for (option, value) in force.into_iter().zip(self.buffers) {
            // The kernel doubles what it is given.
            sys::set_socket_option(
                made.as_fd(),
                libc::SOL_SOCKET,
                option,
                &(value / 2).to_ne_bytes(),
            )?;
        }
        for (option, value) in &self.options {
            set_if_other(made.as_fd(), libc::SOL_SOCKET, *option, value)?;
        }
        sys::shut_down(made.as_fd(), self.shut_down)
    }
}

/// Sets an option unless it has this value.
pub(super) fn set_if_other(
    socket: BorrowedFd,
    level: i32,
    option: i32,
    value: &[u8],
) -> io::Result<()> {
    match sys::socket_option(socket, level, option, value.len())? == value {
        true => Ok(()),
        false => sys::set_socket_option(socket, level, option, value),
    }
}

//! Sockets that are not pairs: those that listen, that are not connected, or that send packets.
//! A connection of TCP is not kept: the process finds that it was reset.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Gid, Uid, fchown};
use serde::{Deserialize, Serialize};

use super::socket_options::{self, SocketOption};
use super::unreadable;
use crate::sys::{self, UnixSocket};

/// States of TCP (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// Offsets in `struct tcp_info`; of one that listens the second is the most that may wait.
const TCP_INFO_STATE: usize = 0;
const TCP_INFO_SACKED: usize = 28;
const TCP_INFO_BYTES: usize = 104;
const PATH_AT: usize = size_of::<libc::sa_family_t>();
const ADDRESS_BYTES_MAX: usize = size_of::<libc::sockaddr_storage>();

/// A socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// AF_INET and so on.
    pub family: i32,
    /// SOCK_STREAM and so on.
    pub kind: i32,
    /// Its protocol.
    pub protocol: i32,
    /// Its address, as bind(2) takes it; empty: it has none.
    pub address: Vec<u8>,
    /// The address to which it sends its packets; empty: to none.
    pub peer: Vec<u8>,
    /// Its activity.
    pub state: SocketState,
    /// Its user and group.
    pub owner: (u32, u32),
    /// Mode, user and group of the file at its address, if there is one.
    pub file: Option<(u32, u32, u32)>,
    /// Options that the kernel tells.
    pub options: Vec<SocketOption>,
    /// Groups of netlink that it is a member of.
    pub groups: Vec<u32>,
}

/// The activity of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketState {
    /// Nothing, or it sends and receives packets.
    #[default]
    Idle,
    /// Takes connections.
    Listening {
        /// The most connections that wait to be accepted.
        backlog: u32,
        /// Process, user and group that those who connect to it are told (SO_PEERCRED).
        listener: (i32, u32, u32),
    },
    /// Has, or had, a connection that is not kept.
    Reset,
}

impl Socket {
    /// Reads the state of a socket; the inner error says why it cannot be kept. Of a unix socket
    /// `unix` is what the kernel tells about it.
    pub fn read(
        copy: BorrowedFd,
        unix: Option<&UnixSocket>,
    ) -> io::Result<Result<Self, &'static str>> {
        let number = |option| {
            let value = sys::socket_option(copy, libc::SOL_SOCKET, option, 4)?;
            let value = value.try_into().map_err(|_| unreadable())?;
            io::Result::Ok(i32::from_ne_bytes(value))
        };
        let family = number(libc::SO_DOMAIN)?;
        let (kind, protocol) = (number(libc::SO_TYPE)?, number(libc::SO_PROTOCOL)?);
        if !is_known(family, kind, protocol) {
            return Ok(Err("of a kind that is not kept"));
        }
        if !is_without_filter(copy) {
            return Ok(Err("with a filter"));
        }
        let owner = std::fs::metadata(format!("/proc/self/fd/{}", copy.as_raw_fd()))?;
        let mut socket = Self {
            family,
            kind,
            protocol,
            address: sys::address(copy)?,
            owner: (owner.uid(), owner.gid()),
            options: socket_options::read(family, kind, protocol, copy),
            ..Self::default()
        };
        let refused = match family {
            libc::AF_UNIX => socket.read_unix(copy, unix)?,
            libc::AF_NETLINK => socket.read_netlink(copy)?,
            _ => socket.read_internet(copy)?,
        };
        Ok(match refused {
            Some(reason) => Err(reason),
            None => Ok(socket),
        })
    }

    fn read_unix(
        &mut self,
        copy: BorrowedFd,
        unix: Option<&UnixSocket>,
    ) -> io::Result<Option<&'static str>> {
        let Some(unix) = unix else {
            return Ok(Some("that this kernel tells nothing about (unix_diag)"));
        };
        if self.address.len() <= PATH_AT {
            self.address.clear();
        }
        let listens = sys::socket_option(copy, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, 4)?;
        if listens != [0; 4] {
            if unix.waiting > 0 {
                return Ok(Some("with connections that wait to be accepted"));
            }
            let maker = sys::maker(copy)?;
            self.state = SocketState::Listening {
                backlog: unix.backlog,
                listener: (maker.pid, maker.user, maker.group),
            };
        } else if self.kind == libc::SOCK_DGRAM {
            if sys::is_ready(copy, libc::POLLIN)? {
                return Ok(Some("with packets that were not read, or shut down"));
            }
            match sys::peer_address(copy)? {
                Some(peer) if peer.len() <= PATH_AT => {
                    return Ok(Some("connected to one without an address"));
                }
                peer => self.peer = peer.unwrap_or_default(),
            }
        } else if unix.connected || sys::peer_address(copy)?.is_some() {
            return Ok(Some("with a connection"));
        }
        if unix.shut_down != 0 {
            return Ok(Some("that is shut down"));
        }
        self.read_path(unix)
    }

    /// Reads what the file at the address of a unix socket is.
    fn read_path(&mut self, unix: &UnixSocket) -> io::Result<Option<&'static str>> {
        let Some(path) = self.path() else {
            return Ok(None);
        };
        if !path.is_absolute() {
            return Ok(Some("whose address is a path from some working directory"));
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if found.ino() != unix.file {
                return Ok(Some("at whose path there is another file now"));
            }
            self.file = Some((found.mode() & 0o7777, found.uid(), found.gid()));
        }
        Ok(None)
    }

    fn read_netlink(&mut self, copy: BorrowedFd) -> io::Result<Option<&'static str>> {
        if sys::is_ready(copy, libc::POLLIN)? {
            return Ok(Some("with messages that were not read"));
        }
        self.groups = socket_options::netlink_groups(copy)?;
        // Family, padding, number: 0 is none. Groups are joined one by one.
        if let Some(groups) = self.address.get_mut(8..12) {
            groups.fill(0);
        }
        if self.address.get(4..8) == Some(&[0; 4]) {
            self.address.clear();
        }
        match sys::peer_address(copy)? {
            Some(peer) if peer.get(4..12).is_some_and(|peer| peer != [0; 8]) => {
                Ok(Some("connected to a part of the kernel or to a process"))
            }
            _ => Ok(None),
        }
    }

    fn read_internet(&mut self, copy: BorrowedFd) -> io::Result<Option<&'static str>> {
        if self.address.get(2..4) == Some(&[0; 2]) && self.has_no_host() {
            self.address.clear();
        }
        if self.kind != libc::SOCK_STREAM {
            self.peer = sys::peer_address(copy)?.unwrap_or_default();
            return Ok(None);
        }
        if socket_options::has_upper_protocol(copy) {
            return Ok(Some("with another protocol on TCP (TCP_ULP)"));
        }
        let level = libc::IPPROTO_TCP;
        let info = sys::socket_option(copy, level, libc::TCP_INFO, TCP_INFO_BYTES)?;
        let backlog = info.get(TCP_INFO_SACKED..TCP_INFO_SACKED + 4);
        let backlog = backlog.and_then(|bytes| bytes.try_into().ok());
        let was_connected = || sys::is_ready(copy, libc::POLLIN | libc::POLLRDHUP);
        self.state = match info.get(TCP_INFO_STATE) {
            Some(&TCP_LISTEN) => SocketState::Listening {
                backlog: u32::from_ne_bytes(backlog.ok_or_else(unreadable)?),
                listener: (0, 0, 0),
            },
            Some(&TCP_CLOSE) if !was_connected()? => SocketState::Idle,
            _ => SocketState::Reset,
        };
        if self.state == SocketState::Reset {
            self.address.clear();
            self.options
                .retain(|option| !socket_options::is_of_way(option));
        }
        Ok(None)
    }

    /// True if the address names a port only.
    fn has_no_host(&self) -> bool {
        let host = match self.family {
            libc::AF_INET => self.address.get(4..8),
            _ => self.address.get(8..24),
        };
        host.is_none_or(|host| host.iter().all(|byte| *byte == 0))
    }

    /// The path at which a unix socket is. None: it has no address, or an abstract one.
    pub fn path(&self) -> Option<&std::path::Path> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = self.address.get(PATH_AT..)?;
        let bytes = bytes.split(|byte| *byte == 0).next()?;
        let is_path = self.family == libc::AF_UNIX && !bytes.is_empty();
        is_path.then(|| std::path::Path::new(std::ffi::OsStr::from_bytes(bytes)))
    }

    /// True for a socket of AF_UNIX.
    pub fn is_unix(&self) -> bool {
        self.family == libc::AF_UNIX
    }

    /// The port of an internet address; 0: none.
    pub fn port(&self) -> Option<u16> {
        let is_internet = matches!(self.family, libc::AF_INET | libc::AF_INET6);
        let port = self.address.get(2..4)?.try_into().ok()?;
        is_internet.then(|| u16::from_be_bytes(port))
    }

    /// True if it has options that an ordinary user cannot set.
    pub fn needs_privileges(&self) -> bool {
        self.options.iter().any(socket_options::needs_privileges)
    }

    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        if !is_known(self.family, self.kind, self.protocol) {
            return Some("a socket is of an unknown kind");
        }
        let family = self.family.to_ne_bytes();
        let addresses = [&self.address, &self.peer];
        let valid = |address: &&Vec<u8>| {
            let begins = address.get(..2) == Some(&family[..2]);
            address.is_empty() || begins && address.len() <= ADDRESS_BYTES_MAX
        };
        if !addresses.iter().all(valid) {
            return Some("a socket has an address that is none");
        }
        let mut options = self.options.iter();
        let known = |option: &SocketOption| {
            socket_options::is_known(self.family, self.kind, self.protocol, option)
        };
        (!options.all(known)).then_some("a socket has an unknown option")
    }

    /// Makes it again, with its address. One that listens at a path or name of this machine
    /// (AF_UNIX) does not listen yet: its process is to do that.
    pub fn make(&self) -> io::Result<OwnedFd> {
        if self.state == SocketState::Reset {
            return self.make_reset();
        }
        let made = sys::make_socket(self.family, self.kind, self.protocol)?;
        self.prepare(&made)?;
        if !self.address.is_empty() {
            self.bind(&made)?;
        }
        // An address has groups, too, and would leave these.
        socket_options::join_groups(&self.groups, made.as_fd())?;
        if let SocketState::Listening { backlog, .. } = self.state
            && self.family != libc::AF_UNIX
        {
            sys::listen(made.as_fd(), backlog)?;
        }
        Ok(made)
    }

    fn prepare(&self, made: &OwnedFd) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        fchown(made, Some(user), Some(group))?;
        socket_options::set(&self.options, made.as_fd())
    }

    fn bind(&self, made: &OwnedFd) -> io::Result<()> {
        if self.family == libc::AF_UNIX || self.family == libc::AF_NETLINK {
            return sys::bind(made.as_fd(), &self.address);
        }
        // Connections that have just ended keep the port in use for others.
        socket_options::with_reuse(made.as_fd(), || sys::bind(made.as_fd(), &self.address))
    }

    /// Connects it to the address that its packets go to, once all sockets have theirs.
    pub fn connect(&self, made: &OwnedFd) -> io::Result<()> {
        match self.peer.is_empty() {
            true => Ok(()),
            false => sys::connect(made.as_fd(), &self.peer),
        }
    }

    /// A socket whose connection was reset by the other end.
    fn make_reset(&self) -> io::Result<OwnedFd> {
        let loopback = socket_options::loopback(self.family);
        let listens = sys::make_socket(self.family, self.kind, self.protocol)?;
        sys::bind(listens.as_fd(), &loopback)?;
        sys::listen(listens.as_fd(), 1)?;
        let made = sys::make_socket(self.family, self.kind, self.protocol)?;
        self.prepare(&made)?;
        match sys::connect(made.as_fd(), &sys::address(listens.as_fd())?) {
            // Without a loopback interface it is not connected at all, which is an error, too.
            Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => return Ok(made),
            connected => connected?,
        }
        let other = sys::accept(listens.as_fd())?;
        socket_options::set_to_reset(other.as_fd())?;
        drop(other);
        Ok(made)
    }
}

/// True for kinds of sockets that are kept.
fn is_known(family: i32, kind: i32, protocol: i32) -> bool {
    match family {
        libc::AF_UNIX => true,
        libc::AF_NETLINK => true,
        libc::AF_INET | libc::AF_INET6 => matches!(
            (kind, protocol),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, libc::IPPROTO_UDP)
        ),
        _ => false,
    }
}

/// A filter of eBPF cannot be read, which is an error.
fn is_without_filter(copy: BorrowedFd) -> bool {
    let filter = sys::socket_option(copy, libc::SOL_SOCKET, libc::SO_GET_FILTER, 0);
    filter.is_ok_and(|filter| filter.is_empty())
}

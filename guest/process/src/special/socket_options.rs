//! Options of sockets that the kernel tells and takes again.

use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::socket_pair::{self, set_if_other};
use crate::sys;

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// Bytes for more groups than the kernel has.
const GROUPS_BYTES: usize = 512;
const TCP_ULP: i32 = 31;
const SO_BUF_LOCK: i32 = 72;
const SENDS_LOCKED: u32 = 1;
const RECEIVES_LOCKED: u32 = 2;

/// An option of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// SOL_SOCKET and so on.
    pub level: i32,
    /// Its number.
    pub option: i32,
    /// Its value.
    pub value: Vec<u8>,
}

/// Options of SOL_SOCKET beside those of pairs: SO_DONTROUTE, SO_LINGER, SO_REUSEPORT,
/// SO_BINDTODEVICE, SO_RXQ_OVFL, SO_SELECT_ERR_QUEUE, SO_ZEROCOPY.
const GENERAL: [(i32, usize); 7] = [
    (libc::SO_DONTROUTE, 4),
    (libc::SO_LINGER, 8),
    (libc::SO_REUSEPORT, 4),
    (libc::SO_BINDTODEVICE, 16),
    (libc::SO_RXQ_OVFL, 4),
    (libc::SO_SELECT_ERR_QUEUE, 4),
    (libc::SO_ZEROCOPY, 4),
];
/// Options of IP: TOS, TTL, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, FREEBIND,
/// TRANSPARENT, RECVORIGDSTADDR, MINTTL, BIND_ADDRESS_NO_PORT, LOCAL_PORT_RANGE.
const IP: [(i32, usize); 13] = [
    (1, 4),
    (2, 4),
    (8, 4),
    (10, 4),
    (11, 4),
    (12, 4),
    (13, 4),
    (15, 4),
    (19, 4),
    (20, 4),
    (21, 4),
    (24, 4),
    (51, 4),
];
/// And of sockets that send packets: MULTICAST_IF, _TTL, _LOOP, _ALL.
const IP_PACKETS: [(i32, usize); 4] = [(32, 4), (33, 4), (34, 4), (49, 4)];
/// Options of IPv6: UNICAST_HOPS, MTU_DISCOVER, RECVERR, V6ONLY, RECVPKTINFO, RECVHOPLIMIT,
/// DONTFRAG, RECVTCLASS, TCLASS, AUTOFLOWLABEL, RECVORIGDSTADDR, TRANSPARENT, FREEBIND.
const IPV6: [(i32, usize); 13] = [
    (16, 4),
    (23, 4),
    (25, 4),
    (26, 4),
    (49, 4),
    (51, 4),
    (62, 4),
    (66, 4),
    (67, 4),
    (70, 4),
    (74, 4),
    (75, 4),
    (78, 4),
];
/// And of sockets that send packets: MULTICAST_IF, _HOPS, _LOOP, _ALL.
const IPV6_PACKETS: [(i32, usize); 4] = [(17, 4), (18, 4), (19, 4), (29, 4)];
/// Options of TCP: NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT,
/// CONGESTION, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT, INQ, TX_DELAY.
const TCP: [(i32, usize); 16] = [
    (1, 4),
    (3, 4),
    (4, 4),
    (5, 4),
    (6, 4),
    (7, 4),
    (8, 4),
    (9, 4),
    (13, 16),
    (18, 4),
    (23, 4),
    (25, 4),
    (27, 4),
    (30, 4),
    (36, 4),
    (37, 4),
];
/// Options of UDP: CORK, ENCAP, SEGMENT, GRO.
const UDP: [(i32, usize); 4] = [(1, 4), (100, 4), (103, 4), (104, 4)];
/// Options of netlink: PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK,
/// GET_STRICT_CHK.
const NETLINK: [(i32, usize); 7] = [(3, 4), (4, 4), (5, 4), (8, 4), (10, 4), (11, 4), (12, 4)];

/// Level, number and longest value of each. Those of IP come first: some set general ones, too.
fn known(family: i32, kind: i32, protocol: i32) -> impl Iterator<Item = (i32, i32, usize)> {
    let of = |level: i32, options: &'static [(i32, usize)], has_them: bool| {
        let options = options.iter().filter(move |_| has_them);
        options.map(move |(option, len)| (level, *option, *len))
    };
    let is_internet = matches!(family, libc::AF_INET | libc::AF_INET6);
    let is_tcp = is_internet && kind == libc::SOCK_STREAM && protocol == libc::IPPROTO_TCP;
    let is_v6 = family == libc::AF_INET6;
    let sends_packets = is_internet && !is_tcp;
    of(libc::IPPROTO_IP, &IP, is_internet)
        .chain(of(libc::IPPROTO_IP, &IP_PACKETS, sends_packets))
        .chain(of(libc::IPPROTO_IPV6, &IPV6, is_v6))
        .chain(of(
            libc::IPPROTO_IPV6,
            &IPV6_PACKETS,
            is_v6 && sends_packets,
        ))
        .chain(of(libc::IPPROTO_TCP, &TCP, is_tcp))
        .chain(of(libc::IPPROTO_UDP, &UDP, sends_packets))
        .chain(of(SOL_NETLINK, &NETLINK, family == libc::AF_NETLINK))
        .chain(of(libc::SOL_SOCKET, &socket_pair::OPTIONS, true))
        .chain(of(libc::SOL_SOCKET, &GENERAL, true))
}

/// Reads all options that the kernel tells.
pub fn read(family: i32, kind: i32, protocol: i32, copy: BorrowedFd) -> Vec<SocketOption> {
    let options = known(family, kind, protocol).filter_map(|(level, option, len)| {
        let value = sys::socket_option(copy, level, option, len).ok()?;
        Some(SocketOption {
            level,
            option,
            value,
        })
    });
    options.chain(buffers(copy)).collect()
}

/// The sizes of buffers that the process has set.
fn buffers(copy: BorrowedFd) -> Vec<SocketOption> {
    let number = |option| {
        let value = sys::socket_option(copy, libc::SOL_SOCKET, option, 4).ok()?;
        value.try_into().ok().map(u32::from_ne_bytes)
    };
    let locked = number(SO_BUF_LOCK).unwrap_or(0);
    let all = [
        (SENDS_LOCKED, libc::SO_SNDBUF),
        (RECEIVES_LOCKED, libc::SO_RCVBUF),
    ];
    let all = all.into_iter().filter(|(lock, _)| locked & lock != 0);
    let all = all.filter_map(|(_, option)| {
        // The kernel doubles what it is given.
        let value = (number(option)? / 2).to_ne_bytes().to_vec();
        Some(SocketOption {
            level: libc::SOL_SOCKET,
            option,
            value,
        })
    });
    all.collect()
}

/// The option by which a size of a buffer is set, whatever the limit is.
fn forced(option: i32) -> Option<i32> {
    match option {
        libc::SO_SNDBUF => Some(libc::SO_SNDBUFFORCE),
        libc::SO_RCVBUF => Some(libc::SO_RCVBUFFORCE),
        _ => None,
    }
}

/// True for an option of such a socket, with a value that it can have.
pub fn is_known(family: i32, kind: i32, protocol: i32, option: &SocketOption) -> bool {
    if option.level == libc::SOL_SOCKET && forced(option.option).is_some() {
        return option.value.len() == 4;
    }
    known(family, kind, protocol).any(|(level, number, len)| {
        (level, number) == (option.level, option.option) && option.value.len() <= len
    })
}

/// True for an option that only root can set, with a value that is not the usual one: marks,
/// devices, addresses of others, buffers beyond the limit, priorities above 6.
pub fn needs_privileges(option: &SocketOption) -> bool {
    const IP_TRANSPARENT: i32 = 19;
    const IPV6_TRANSPARENT: i32 = 75;
    const PRIORITY_MAX: u8 = 6;
    let is_set = option.value.iter().any(|byte| *byte != 0);
    match (option.level, option.option) {
        (libc::SOL_SOCKET, libc::SO_PRIORITY) => option
            .value
            .first()
            .is_some_and(|value| *value > PRIORITY_MAX),
        (libc::SOL_SOCKET, libc::SO_MARK | libc::SO_BINDTODEVICE)
        | (libc::IPPROTO_IP, IP_TRANSPARENT)
        | (libc::IPPROTO_IPV6, IPV6_TRANSPARENT) => is_set,
        (libc::SOL_SOCKET, option) => forced(option).is_some(),
        _ => false,
    }
}

/// True for an option without which a connection within this machine can be made.
pub fn is_of_way(option: &SocketOption) -> bool {
    const IPV6_V6ONLY: i32 = 26;
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let of_way = [
        (libc::IPPROTO_IPV6, IPV6_V6ONLY),
        (libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    ];
    of_way.contains(&(option.level, option.option))
}

/// Sets options that differ.
pub fn set(options: &[SocketOption], made: BorrowedFd) -> io::Result<()> {
    for option in options {
        let (level, number) = (option.level, option.option);
        match forced(number).filter(|_| level == libc::SOL_SOCKET) {
            Some(forced) => sys::set_socket_option(made, level, forced, &option.value)?,
            None => set_if_other(made, level, number, &option.value)?,
        }
    }
    Ok(())
}

/// Does something while a socket may have an address that ended connections use.
pub fn with_reuse<T>(made: BorrowedFd, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (level, option) = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    let before = sys::socket_option(made, level, option, 4)?;
    sys::set_socket_option(made, level, option, &1u32.to_ne_bytes())?;
    let done = act();
    sys::set_socket_option(made, level, option, &before)?;
    done
}

/// True if TCP carries another protocol of the kernel, such as TLS.
pub fn has_upper_protocol(copy: BorrowedFd) -> bool {
    let name = sys::socket_option(copy, libc::IPPROTO_TCP, TCP_ULP, 16);
    name.is_ok_and(|name| name.iter().any(|byte| *byte != 0))
}

/// Has the other end find a reset when this one is closed.
pub fn set_to_reset(made: BorrowedFd) -> io::Result<()> {
    // struct linger: on, and no time.
    let linger = [1u32, 0].map(u32::to_ne_bytes).concat();
    sys::set_socket_option(made, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// The address of this machine itself, with any port.
pub fn loopback(family: i32) -> Vec<u8> {
    let v4 = [127, 0, 0, 1];
    let mut address = (family as libc::sa_family_t).to_ne_bytes().to_vec();
    address.extend([0; 2]);
    match family {
        libc::AF_INET => {
            address.extend(v4);
            address.extend([0; 8]);
        }
        _ => {
            // Flow, ::ffff:127.0.0.1, scope.
            address.extend([0; 4]);
            address.extend([0; 10]);
            address.extend([0xff; 2]);
            address.extend(v4);
            address.extend([0; 4]);
        }
    }
    address
}

/// The groups of netlink that a socket is a member of.
pub fn netlink_groups(copy: BorrowedFd) -> io::Result<Vec<u32>> {
    let read = sys::socket_option(copy, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, GROUPS_BYTES)?;
    let bits = read.iter().enumerate().flat_map(|(at, byte)| {
        let set = (0..8).filter(move |bit| byte & 1 << bit != 0);
        set.map(move |bit| (at * 8 + bit + 1) as u32)
    });
    Ok(bits.collect())
}

/// Joins groups of netlink.
pub fn join_groups(groups: &[u32], made: BorrowedFd) -> io::Result<()> {
    groups.iter().try_for_each(|group| {
        let group = group.to_ne_bytes();
        sys::set_socket_option(made, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group)
    })
}

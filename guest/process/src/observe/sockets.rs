//! Addresses of sockets, from the tables in /proc/PID/net: those of the process's own network
//! namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::read_text;
use crate::error::Pid;

/// Tables of sockets with internet addresses, and what is in them.
const INTERNET: [(&str, &str); 8] = [
    ("tcp", "TCP"),
    ("tcp6", "TCP"),
    ("udp", "UDP"),
    ("udp6", "UDP"),
    ("udplite", "UDP-Lite"),
    ("raw", "raw IP"),
    ("raw6", "raw IP"),
    ("icmp", "ICMP"),
];
/// Tables of other sockets: what is in them, and the column of the inode number.
const OTHERS: [(&str, &str, usize); 2] = [("netlink", "netlink", 9), ("packet", "packet", 8)];
/// The state of a TCP socket that listens.
const LISTENS: &str = "0A";
/// The flag of a unix socket that accepts connections (`__SO_ACCEPTCON`).
const ACCEPTS: u32 = 1 << 16;

/// A description of the socket with this inode number that a process has open, such as `TCP,
/// 10.0.2.15:22 to 10.0.2.2:51234`. `None`: no table has it, as with vsock.
pub fn describe(pid: Pid, inode: u64) -> Option<String> {
    let table = |name: &str| read_text(pid, &format!("net/{name}")).unwrap_or_default();
    let unix = || unix(&table("unix"), inode);
    let internet = || {
        let mut tables = INTERNET.iter();
        tables.find_map(|(name, what)| internet(&table(name), what, inode))
    };
    let other = || {
        let has = |name: &str, column: usize| {
            let text = table(name);
            text.lines().skip(1).any(|line| {
                line.split_ascii_whitespace().nth(column) == Some(inode.to_string().as_str())
            })
        };
        let mut tables = OTHERS.iter();
        let found = tables.find(|(name, _, column)| has(name, *column));
        found.map(|(_, what, _)| (*what).to_owned())
    };
    unix().or_else(internet).or_else(other)
}

/// Columns: address, references, protocol, flags, type, state, inode, path.
fn unix(table: &str, inode: u64) -> Option<String> {
    let inode = inode.to_string();
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_ascii_whitespace().nth(6) == Some(inode.as_str()))?;
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
    let kind = match *words.get(4)? {
        "0002" => "unix datagram",
        "0005" => "unix packets",
        _ => "unix stream",
    };
    // A path may have spaces in it.
    let behind_inode = line.split_once(&format!(" {inode}")).map(|(_, rest)| rest);
    let path = behind_inode.map_or("", |rest| rest.strip_prefix(' ').unwrap_or(rest));
    let does = match (flags & ACCEPTS != 0, words.get(5)) {
        (true, _) => "listens at ",
        (false, Some(&"03")) => "connected, ",
        _ => "",
    };
    let shown = if path.is_empty() { "no path" } else { path };
    Some(format!("{kind}, {does}{shown}"))
}

/// Columns: number, local address, remote address, state, and the inode as the tenth.
fn internet(table: &str, what: &str, inode: u64) -> Option<String> {
    let inode = inode.to_string();
    let words = table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (words.get(9) == Some(&inode.as_str())).then_some(words)
    })?;
    let (local, remote) = (address(words[1])?, address(words[2])?);
    Some(if words[3] == LISTENS && what == "TCP" {
        format!("{what}, listens at {local}")
    } else if remote.port() == 0 && remote.ip().is_unspecified() {
        format!("{what}, {local}")
    } else {
        format!("{what}, {local} to {remote}")
    })
}

/// `0100007F:1F90` is 127.0.0.1:8080: each word of four bytes is in the processor's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
#[path = "sockets_test.rs"]
mod sockets_test;

//! Destinations that a guest may send to.
//!
//! Each frame is looked at: the IP header behind the Ethernet header and up to two VLAN tags. Also
//! fragments have their destination in it. Frames that are not IP (ARP) may pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const TAGS_MAX: usize = 2;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad.
const TAGGED: [u16; 2] = [0x8100, 0x88a8];
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// IPv4 options by which the sender names the way: loose and strict source routes.
const SOURCE_ROUTES: [u8; 2] = [131, 137];
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// IPv6 extension headers: hop-by-hop options come before a routing header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Networks that a guest may and may not send to, besides those that are always denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetPolicy {
    /// Networks that are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<IpNet>,
    /// Networks that are allowed. The longest prefix decides; of equal ones, this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
}

/// Reasons why a frame does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its destination is denied.
    Denied,
    /// Its header is no header.
    Malformed,
}

impl NetPolicy {
    /// True when nothing is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Looks at a frame of the guest.
    pub(super) fn check(&self, frame: &[u8]) -> Result<(), Refused> {
        let Some(destination) = destination(frame)? else {
            return Ok(());
        };
        match self.allows(destination) {
            true => Ok(()),
            false => Err(Refused::Denied),
        }
    }

    /// True when a guest may send to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        let longest = |nets: &[IpNet]| {
            let containing = nets.iter().filter(|net| net.contains(&address));
            containing.map(|net| net.prefix_len()).max()
        };
        let denied = longest(&self.deny).max(longest(&always_denied()));
        let allowed = longest(&self.allow).max(longest(&always_allowed()));
        denied.is_none_or(|denied| allowed.is_some_and(|allowed| allowed >= denied))
    }
}

/// Addresses that are denied unless they are allowed by name: those at which clouds give
/// credentials to whoever asks, and all by which the host means itself.
fn always_denied() -> [IpNet; 7] {
    let v4 = |address, prefix| IpNet::V4(Ipv4Net::new_assert(address, prefix));
    let v6 = |address, prefix| IpNet::V6(Ipv6Net::new_assert(address, prefix));
    [
        v4(Ipv4Addr::new(169, 254, 169, 254), 32),
        v4(Ipv4Addr::LOCALHOST, 8),
        v4(Ipv4Addr::UNSPECIFIED, 8),
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        v6(Ipv6Addr::LOCALHOST, 128),
        v6(Ipv6Addr::UNSPECIFIED, 128),
        // IPv4 addresses in IPv6, which are on no wire.
        v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    ]
}

/// Addresses that do not leave the link, which DHCP and neighbour discovery need.
fn always_allowed() -> [IpNet; 2] {
    [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0),
            16,
        )),
    ]
}

/// The destination of a frame, if it is IP.
fn destination(frame: &[u8]) -> Result<Option<IpAddr>, Refused> {
    let mut rest = frame;
    let mut kind_at = ETHERNET_BYTES - 2;
    for _ in 0..=TAGS_MAX {
        let kind = rest.get(kind_at..kind_at + 2).ok_or(Refused::Malformed)?;
        let kind = u16::from_be_bytes([kind[0], kind[1]]);
        rest = &rest[kind_at + 2..];
        if !TAGGED.contains(&kind) {
            return match kind {
                IPV4 => ipv4(rest).map(Some),
                IPV6 => ipv6(rest).map(Some),
                _ => Ok(None),
            };
        }
        kind_at = TAG_BYTES - 2;
    }
    // More tags than anybody uses.
    Err(Refused::Malformed)
}

fn ipv4(packet: &[u8]) -> Result<IpAddr, Refused> {
    let header = packet
        .first_chunk::<IPV4_BYTES>()
        .ok_or(Refused::Malformed)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let options = packet.get(IPV4_BYTES..length);
    if header[0] >> 4 != 4 {
        return Err(Refused::Malformed);
    }
    has_source_route(options.ok_or(Refused::Malformed)?)?;
    Ok(Ipv4Addr::new(header[16], header[17], header[18], header[19]).into())
}

/// Refuses packets that go to another address than that of their header.
fn has_source_route(mut options: &[u8]) -> Result<(), Refused> {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => options = rest,
            kind if SOURCE_ROUTES.contains(&kind) => return Err(Refused::Denied),
            _ => {
                let length = usize::from(*rest.first().ok_or(Refused::Malformed)?);
                if length < 2 {
                    return Err(Refused::Malformed);
                }
                options = options.get(length..).ok_or(Refused::Malformed)?;
            }
        }
    }
    Ok(())
}

fn ipv6(packet: &[u8]) -> Result<IpAddr, Refused> {
    let (header, mut rest) = packet
        .split_first_chunk::<IPV6_BYTES>()
        .ok_or(Refused::Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(Refused::Malformed);
    }
    let mut next = header[6];
    while matches!(next, HOP_BY_HOP | DESTINATION_OPTIONS) {
        let &[after, units, ..] = rest else {
            return Err(Refused::Malformed);
        };
        next = after;
        rest = rest
            .get((usize::from(units) + 1) * 8..)
            .ok_or(Refused::Malformed)?;
    }
    if next == ROUTING {
        return Err(Refused::Denied);
    }
    let mut address = [0; 16];
    address.copy_from_slice(&header[24..40]);
    Ok(Ipv6Addr::from(address).into())
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod policy_test;

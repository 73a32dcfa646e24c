//! A card as a spec declares it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::{Net, NetOptions, NetPolicy};
use crate::virtio::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use crate::virtio::device::VirtioDevice;
use crate::virtio::rate::DiskRate;

/// One virtio-net card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// Its place on the host.
    pub source: NetSource,
    /// Its address.
    pub mac: Mac,
    /// Longest IP packet that the guest is told of, in bytes; 0: as the place on the host has it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u16,
    /// Queue pairs.
    pub queues: u8,
    /// Network namespace of the host that its place is in, by its name in `/run/netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Limits of each direction.
    #[serde(default, skip_serializing_if = "NetRate::is_none")]
    pub rate: NetRate,
    /// Destinations that the guest may send to.
    #[serde(default, skip_serializing_if = "NetPolicy::is_empty")]
    pub policy: NetPolicy,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// Place of a card on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetSource {
    /// Sockets of the host's user, by a `passt` of the VM's own.
    Passt {
        /// Ports of the host that lead into the guest.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        published: Vec<Published>,
    },
    /// A TAP device of the host, by its name.
    Tap {
        /// Its name.
        name: String,
    },
    /// A TAP device, or a stream in the protocol of passt, that this process was given open.
    Fd {
        /// The descriptor.
        fd: i32,
    },
    /// No network: the link is down.
    None,
}

/// Ports of the host that lead to ports of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address of the host; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// First port of the host.
    pub host_port: u16,
    /// First port of the guest.
    pub guest_port: u16,
    /// Number of ports.
    pub count: u16,
}

/// Protocols whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Most that a card carries in a second, each way; none: as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetRate {
    /// Bytes of frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<NonZeroU64>,
    /// Frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_per_s: Option<NonZeroU64>,
}

impl NetRate {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<NetRate> for DiskRate {
    fn from(rate: NetRate) -> Self {
        Self {
            bytes_per_s: rate.bytes_per_s,
            requests_per_s: rate.frames_per_s,
        }
    }
}

/// Address of a card: `02:00:5e:10:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// A text is no address that a card can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address of a card: six numbers like 02:00:5e:10:00:01, the first one even")]
pub struct NoMac(String);

impl Mac {
    /// An address that nobody gave out, made of these bytes.
    pub fn local(bytes: [u8; 6]) -> Self {
        let mut own = bytes;
        // Given out by no maker, and of one card.
        own[0] = own[0] & 0xfc | 2;
        Self(own)
    }
}

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let no = || NoMac(text.to_owned());
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(no)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| no())?;
        }
        let is_of_a_group = mac[0] & 1 != 0;
        match parts.next().is_some() || is_of_a_group || mac == [0; 6] {
            true => Err(no()),
            false => Ok(Self(mac)),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Self, NoMac> {
        text.parse()
    }
}

impl<Mem: GuestMemory> DeviceSpec<Mem> for NetSpec {
    fn instance_prefix(&self) -> &'static str {
        "net"
    }

    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        let port = host.nets.next().ok_or_else(|| DeviceError::Missing {
            instance: id.instance.clone(),
            part: "a network",
        })?;
        let options = NetOptions {
            mac: self.mac.0,
            mtu: self.mtu,
            pairs: usize::from(self.queues),
            rate: self.rate,
            policy: self.policy.clone(),
        };
        let net = Net::new(port, options).map_err(|source| DeviceError::Host {
            op: "make a network card",
            source,
        })?;
        Ok(Box::new(net))
    }
}

//! Values of arguments about networks.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::str::FromStr;

use nvvmm::ErrorKind;
use nvvmm::VmError;
use nvvmm::spec::{Mac, NetChoice, NetSource, NetSpec, Protocol, Published};
use nvvmm_devices::virtio::PAIRS_MAX;
use nvvmm_snapshot::fill_random;

use super::args::NetArguments;
use super::values::bytes;
use super::whole_number;

/// The smallest rate in bytes per second: TCP gives up on networks that are slower.
const RATE_MIN: u64 = 8 << 10;
const RATE_MAX: u64 = 1 << 40;
const FRAMES_MAX: u32 = 1_000_000_000;
/// Smallest MTU of IPv4, and largest one of a card.
const MTU_MIN: u32 = 68;
const MTU_MAX: u32 = 65521;
/// Ports of one option.
const PORTS_MAX: u16 = 1000;
const INTERFACE_NAME_BYTES_MAX: usize = 15;

const KINDS: &str = "use passt, tap=NAME, fd=N, netns=NAME or none, for example --net tap=tap0";

/// A network: `passt`, `tap=NAME`, `fd=N` or `none`, and options behind commas.
pub fn network(text: &str) -> Result<NetChoice, String> {
    let mut source = None;
    let mut choice = NetChoice::of(NetSource::None);
    for option in text.split(',') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let is_named = option.contains('=');
        let place = match (key, is_named) {
            ("passt", false) => Some(NetSource::Passt {
                published: Vec::new(),
            }),
            ("none", false) => Some(NetSource::None),
            ("tap", true) => Some(NetSource::Tap {
                name: interface(value)?,
            }),
            ("fd", true) => Some(NetSource::Fd {
                fd: descriptor(value)?,
            }),
            (_, true) => {
                set(&mut choice, (key, value))
                    .map_err(|fault| format!("in '{option}': {fault}"))?;
                None
            }
            _ => return Err(format!("'{option}' is no network: {KINDS}")),
        };
        if place.is_some() && source.is_some() {
            return Err(format!(
                "'{option}' is a second network: give one --net with one"
            ));
        }
        source = source.or(place);
    }
    choice.source = source.unwrap_or(NetSource::Passt {
        published: Vec::new(),
    });
    check(&choice)?;
    Ok(choice)
}

fn check(choice: &NetChoice) -> Result<(), String> {
    let several = choice.queues.is_some_and(|queues| queues > 1);
    if several && !matches!(choice.source, NetSource::Tap { .. }) {
        return Err("'queues=' needs 'tap=NAME': passt and a descriptor have one".to_owned());
    }
    if choice.source == NetSource::None && *choice != NetChoice::of(NetSource::None) {
        return Err("'none' has no options".to_owned());
    }
    Ok(())
}

fn set(choice: &mut NetChoice, (key, value): (&str, &str)) -> Result<(), String> {
    let number = |range| whole_number::parse(value, &range);
    match key {
        "mac" => once(
            &mut choice.mac,
            Mac::from_str(value).map_err(|e| e.to_string())?,
        ),
        "mtu" => once(&mut choice.mtu, number(MTU_MIN..=MTU_MAX)? as u16),
        "queues" => once(&mut choice.queues, number(1..=PAIRS_MAX as u32)? as u8),
        "netns" if value.is_empty() || value.contains('/') => {
            Err("this is no name of a network namespace ('ip netns' lists them)".to_owned())
        }
        "netns" => once(&mut choice.netns, value.to_owned()),
        "rate" => {
            let rate = bytes(value, RATE_MAX)?;
            if rate < RATE_MIN {
                return Err("the smallest rate is 8K (bytes per second)".to_owned());
            }
            once(&mut choice.rate.bytes_per_s, at_least_one(rate))
        }
        "pps" => {
            let frames = number(1..=FRAMES_MAX)?;
            once(&mut choice.rate.frames_per_s, at_least_one(frames.into()))
        }
        "deny" | "allow" => {
            let net = subnet(value)?;
            match key {
                "deny" => choice.policy.deny.push(net),
                _ => choice.policy.allow.push(net),
            }
            Ok(())
        }
        _ => Err(format!(
            "'{key}' is no option of a network: use mac=, mtu=, queues=, netns=, rate=, pps=, \
             deny= or allow="
        )),
    }
}

fn at_least_one(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN)
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("it is given twice".to_owned()),
    }
}

fn subnet<N: FromStr + From<IpAddr>>(text: &str) -> Result<N, String> {
    let alone = || text.parse::<IpAddr>().map(N::from).ok();
    let net = text.parse().ok().or_else(alone);
    net.ok_or_else(|| {
        "this is no network: give one like 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32".to_owned()
    })
}

fn interface(name: &str) -> Result<String, String> {
    let fits = (1..=INTERFACE_NAME_BYTES_MAX).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_whitespace());
    match fits {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "'{name}' is no name of an interface: 1 to {INTERFACE_NAME_BYTES_MAX} bytes without \
             '/' and spaces"
        )),
    }
}

fn descriptor(text: &str) -> Result<i32, String> {
    let number = whole_number::parse(text, &(3..=1_000_000));
    number.map(|number| number as i32).map_err(|fault| {
        format!("in 'fd={text}': {fault}; it is the number of a descriptor that is open here")
    })
}

/// Ports to publish: `[ADDRESS:]PORT[-PORT]:GUEST_PORT[-GUEST_PORT][/tcp|/udp]`.
pub fn published(text: &str) -> Result<Published, String> {
    let shape = || {
        format!(
            "'{text}' is no pair of ports: give PORT:GUEST_PORT, for example 8080:80, \
             127.0.0.1:8080:80, 8000-8010:9000-9010 or 5353:53/udp"
        )
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("'{other}' is no protocol: use /tcp or /udp")),
    };
    let (before, guest) = ports.rsplit_once(':').ok_or_else(shape)?;
    let (address, host) = match before.rsplit_once(':') {
        None => (None, before),
        Some((address, host)) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
            let address = bare.unwrap_or(address).parse::<IpAddr>();
            (Some(address.map_err(|_| shape())?), host)
        }
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text| whole_number::parse(text, &(1..=65535)).map(|port| port as u16);
        let (first, last) = (port(first)?, port(last)?);
        match last.checked_sub(first) {
            None => Err(format!("the range {text} ends before it begins")),
            Some(more) if more >= PORTS_MAX => {
                Err(format!("the range {text} has more than {PORTS_MAX} ports"))
            }
            Some(more) => Ok((first, more + 1)),
        }
    };
    let ((host_port, count), (guest_port, guest_count)) = (range(host)?, range(guest)?);
    if count != guest_count {
        return Err(format!(
            "{host} has {count} ports and {guest} has {guest_count}: give ranges of one length"
        ));
    }
    Ok(Published {
        protocol,
        address,
        host_port,
        guest_port,
        count,
    })
}

/// The card of a new machine, if one is wanted. To publish a port is to want one.
///
/// # Errors
/// [`ErrorKind::Usage`]: another network than passt publishes no ports.
pub fn new_card(arguments: NetArguments) -> Result<Option<NetSpec>, VmError> {
    let Some(choice) = chosen(arguments)? else {
        return Ok(None);
    };
    if choice.source == NetSource::None {
        return Ok(None);
    }
    let mut made_up = [0; 6];
    fill_random(&mut made_up)?;
    Ok(Some(choice.new_card(Mac::local(made_up))))
}

/// The network that is asked for, with the ports to publish.
///
/// # Errors
/// As [`new_card`].
pub fn chosen(arguments: NetArguments) -> Result<Option<NetChoice>, VmError> {
    let NetArguments { net, publish } = arguments;
    let mut choice = match net {
        None if publish.is_empty() => return Ok(None),
        None => NetChoice::of(NetSource::Passt {
            published: Vec::new(),
        }),
        Some(choice) => choice,
    };
    match &mut choice.source {
        NetSource::Passt { published } => *published = publish,
        _ if publish.is_empty() => {}
        _ => {
            return Err(VmError::new(
                ErrorKind::Usage,
                "-p publishes ports of passt, and --net asks for another network",
            )
            .with_remedy(
                "leave -p out, and have your bridge or firewall forward the port; or use --net \
                 passt",
            ));
        }
    }
    Ok(Some(choice))
}

#[cfg(test)]
#[path = "net_values_test.rs"]
mod net_values_test;

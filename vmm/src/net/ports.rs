//! Ports of the host that lead into a guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use nvvmm_devices::virtio::{Protocol, Published};

use super::NetError;

/// `8080` or `8000-8010`.
pub fn port_range(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count - 1)),
    }
}

/// The ports of the host, with the address if one is given: `127.0.0.1:8080`, `8000-8010`.
pub fn host_range(published: &Published) -> String {
    let ports = port_range(published.host_port, published.count);
    match published.address {
        None => ports,
        Some(IpAddr::V4(address)) => format!("{address}:{ports}"),
        Some(IpAddr::V6(address)) => format!("[{address}]:{ports}"),
    }
}

/// The option of passt for these ports, and its value.
pub(super) fn passt_option(published: &Published) -> [String; 2] {
    let option = match published.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
    };
    let address = published.address.map(|address| format!("{address}/"));
    let value = format!(
        "{}{}:{}",
        address.unwrap_or_default(),
        port_range(published.host_port, published.count),
        port_range(published.guest_port, published.count)
    );
    [option.to_owned(), value]
}

/// Checks that nobody has these ports. passt of 2023 would go on without them.
///
/// # Errors
/// [`NetError::Port`] for the first one that cannot be had.
pub(super) fn check_free(all: &[Published]) -> Result<(), NetError> {
    each(all, |published, address, port| {
        bind(published.protocol, address).map_err(|source| NetError::Port {
            port: name_of(published, port),
            protocol: word(published.protocol),
            source,
        })
    })
}

/// Checks that somebody has each of these ports by now.
///
/// # Errors
/// [`NetError::NotListening`] for the first one that is free.
pub(super) fn check_taken(all: &[Published]) -> Result<(), NetError> {
    each(all, |published, address, port| {
        match bind(published.protocol, address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
            _ => Err(NetError::NotListening {
                port: name_of(published, port),
                protocol: word(published.protocol),
            }),
        }
    })
}

fn each(
    all: &[Published],
    mut check: impl FnMut(&Published, SocketAddr, u16) -> Result<(), NetError>,
) -> Result<(), NetError> {
    for published in all {
        let address = published.address.unwrap_or_else(any_address);
        for index in 0..published.count {
            let port = published.host_port.saturating_add(index);
            check(published, (address, port).into(), port)?;
        }
    }
    Ok(())
}

/// All addresses of the host, also where it has no IPv6.
fn any_address() -> IpAddr {
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    match has_ipv6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}

fn name_of(published: &Published, port: u16) -> String {
    host_range(&Published {
        host_port: port,
        count: 1,
        ..published.clone()
    })
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

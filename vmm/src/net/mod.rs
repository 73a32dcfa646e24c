//! The networks of a VM's cards: opened once, before the guest runs, and open as long as the VM
//! lives, whatever machines follow each other in it.
//!
//! A namespace of the host is entered for that only. The `passt` of a card ends with the VM: it
//! ends when the stream to it is closed.

mod namespace;
mod passt;
mod ports;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use nvvmm_devices::virtio::{
    NetBackend, NetPort, NetSource, NetSpec, NoNetwork, StreamBackend, TapBackend, given_descriptor,
};

pub use passt::Passt;
pub use ports::{host_range, port_range};

/// Reasons why a network cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// There is no passt on this host.
    #[error("--net needs the program 'passt', which is not installed")]
    NoPasst,
    /// passt has ended.
    #[error("passt does not start: {0}")]
    Passt(String),
    /// A port of the host cannot be published.
    #[error("port {port} of the host ({protocol}) cannot be published: {source}")]
    Port {
        /// The port, with the address if one was given.
        port: String,
        /// TCP or UDP.
        protocol: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// passt runs, but does not listen at a port.
    #[error("passt does not listen at port {port} of the host ({protocol})")]
    NotListening {
        /// The port, with the address if one was given.
        port: String,
        /// TCP or UDP.
        protocol: &'static str,
    },
    /// A TAP device cannot be used.
    #[error("the TAP device '{name}' cannot be used: {source}")]
    Tap {
        /// Its name.
        name: String,
        /// The host's error.
        source: io::Error,
    },
    /// A descriptor is no network.
    #[error("descriptor {fd} is no network: {why}")]
    Descriptor {
        /// Its number.
        fd: i32,
        /// The reason.
        why: String,
    },
    /// A network namespace cannot be entered.
    #[error("the network namespace '{name}' cannot be entered: {source}")]
    Namespace {
        /// Its name.
        name: String,
        /// The host's error.
        source: io::Error,
    },
    /// The host refused something else.
    #[error("cannot {op}: {source}")]
    Host {
        /// The step that failed.
        op: &'static str,
        /// The host's error.
        source: io::Error,
    },
}

impl NetError {
    /// Advice to the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NoPasst => Some(
                "install it: 'apt install passt', 'dnf install passt'; or give --net tap=NAME \
                 with a TAP device of yours",
            ),
            Self::Passt(_) => Some(
                "try 'passt --foreground' by hand; it needs a network of the host, and user \
                 namespaces",
            ),
            Self::Port { .. } => Some(
                "choose another port of the host in -p HOST:GUEST; 'ss -ltnup' shows who has it",
            ),
            Self::NotListening { .. } => {
                Some("ports below 1024 need a right that passt does not have: choose a higher one")
            }
            Self::Tap { .. } => Some(
                "'ip -details link show' lists TAP devices and their owners; make one with 'ip \
                 tuntap add NAME mode tap user USER vnet_hdr', with 'multi_queue' for queues=2 \
                 or more; each device serves one VM at a time",
            ),
            Self::Descriptor { .. } => Some(
                "give the number of an open TAP device (with IFF_VNET_HDR and IFF_NO_PI), or of a \
                 stream socket that speaks the protocol of passt",
            ),
            Self::Namespace { .. } => Some(
                "'ip netns' lists them; entering one needs root. scripts/netns.sh makes one for a \
                 VM",
            ),
            Self::Host { .. } => None,
        }
    }
}

/// The open networks of one VM, in the order of its cards.
#[derive(Default)]
pub struct OpenNets {
    ports: Vec<Arc<NetPort>>,
}

impl OpenNets {
    /// Opens the network of each card.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left then.
    pub fn open<'a>(specs: impl Iterator<Item = &'a NetSpec>) -> Result<Self, NetError> {
        let ports = specs.map(|spec| open(spec).map(Arc::new));
        Ok(Self {
            ports: ports.collect::<Result<_, _>>()?,
        })
    }

    /// The networks, for one machine.
    pub fn ports(&self) -> &[Arc<NetPort>] {
        &self.ports
    }
}

fn open(spec: &NetSpec) -> Result<NetPort, NetError> {
    if let Some(name) = &spec.netns {
        return namespace::within(name, || open_here(spec));
    }
    open_here(spec)
}

fn open_here(spec: &NetSpec) -> Result<NetPort, NetError> {
    let backend: Box<dyn NetBackend> = match &spec.source {
        NetSource::None => Box::new(NoNetwork),
        NetSource::Passt { published } => return Passt::start(spec, published),
        NetSource::Fd { fd } => given(*fd)?,
        NetSource::Tap { name } => {
            let tap = TapBackend::open(name, usize::from(spec.queues));
            Box::new(tap.map_err(|source| NetError::Tap {
                name: name.clone(),
                source,
            })?)
        }
    };
    Ok(NetPort::new(backend))
}

/// A TAP device or a stream that this process was given.
fn given(fd: i32) -> Result<Box<dyn NetBackend>, NetError> {
    let refused = |error: io::Error| NetError::Descriptor {
        fd,
        why: error.to_string(),
    };
    let given = given_descriptor(fd).map_err(refused)?;
    if is_stream(&given) {
        let stream = StreamBackend::new(format!("fd {fd}"), UnixStream::from(given));
        return Ok(Box::new(stream.map_err(refused)?));
    }
    let tap = TapBackend::of_file(File::from(given)).map_err(|_| NetError::Descriptor {
        fd,
        why: "it is neither a TAP device nor a stream socket".to_owned(),
    })?;
    Ok(Box::new(tap))
}

fn is_stream(fd: &impl AsFd) -> bool {
    getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;

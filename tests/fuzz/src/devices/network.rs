//! A network card at a stream, and the other side of it, which keeps to the protocol or not.

use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nvvmm_devices::virtio::{Net, NetOptions, NetPolicy, NetPort, NetRate, StreamBackend};

use super::console::no_sigpipe;
use crate::script::Script;

/// The other side of a card's stream.
pub(crate) struct Network {
    stream: Option<UnixStream>,
}

/// A card, and the other side of it.
pub(super) fn card(limited: bool) -> (Net, Network) {
    no_sigpipe();
    let (own, other) = UnixStream::pair().expect("a socket pair");
    other.set_nonblocking(true).expect("a socket option");
    let backend = StreamBackend::new("stream", own).expect("a socket option");
    let frames_per_s = NonZeroU64::new(2).filter(|_| limited);
    let options = NetOptions {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        pairs: 1,
        rate: NetRate {
            bytes_per_s: None,
            frames_per_s,
        },
        policy: NetPolicy {
            deny: vec!["10.0.0.0/8".parse().expect("a network")],
            allow: Vec::new(),
        },
    };
    let net = Net::new(Arc::new(NetPort::new(Box::new(backend))), options);
    let network = Network {
        stream: Some(other),
    };
    (net.expect("descriptors"), network)
}

impl Network {
    /// Does one step: a byte that chooses it, then its operands. An error means that the stream is
    /// full, or ended.
    pub(super) fn step(&mut self, script: &mut Script) {
        let what = script.u8() % 5;
        let Some(stream) = &mut self.stream else {
            return;
        };
        match what {
            0 => {
                let length = script.u16();
                let mut frame = u32::from(length).to_be_bytes().to_vec();
                let given = script.bytes(usize::from(length % 64));
                frame.extend_from_slice(given);
                frame.resize(4 + usize::from(length), 0x5a);
                drop(stream.write(&frame));
            }
            1 => {
                let length = usize::from(script.u8());
                drop(stream.write(script.bytes(length)));
            }
            2 => drop(stream.read(&mut [0; 0x1_0000])),
            3 => {
                // As much as there is.
                while stream.read(&mut [0; 0x1_0000]).is_ok_and(|read| read > 0) {}
            }
            _ => self.stream = None,
        }
    }
}

//! The host's side of a card: where frames go to and come from.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
};

use crate::lock::lock;
use crate::sys;

/// Length of a `virtio_net_hdr_v1`, which is before each frame, in bytes (Virtio 1.2 section
/// 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// Longest frame: an Ethernet header, two VLAN tags, and 64 KiB.
pub const FRAME_BYTES_MAX: usize = 14 + 8 + 65535;
/// Longest packet: a frame with its header.
pub const PACKET_BYTES_MAX: usize = HEADER_BYTES + FRAME_BYTES_MAX;

/// Work on frames that a backend takes over from the guest, and the guest from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of TCP and UDP, both ways.
    pub checksum: bool,
    /// Segmentation of TCP over IPv4 and IPv6, both ways.
    pub tcp: bool,
    /// Segmentation of UDP, both ways.
    pub udp: bool,
}

impl Offloads {
    /// Features that a driver is offered for these.
    pub(super) fn features(self) -> u64 {
        let bits = |has: bool, features: &[u32]| match has {
            true => features.iter().fold(0, |all, bit| all | 1_u64 << bit),
            false => 0,
        };
        let checksum = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM];
        let tcp = [
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
        ];
        let udp = [
            VIRTIO_NET_F_HOST_USO,
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
        ];
        bits(self.checksum, &checksum) | bits(self.tcp, &tcp) | bits(self.udp, &udp)
    }
}

/// Frames that a driver takes although they lack a checksum or are not segmented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Frames without their checksum.
    pub checksum: bool,
    /// Long frames of TCP over IPv4.
    pub tcp4: bool,
    /// Long frames of TCP over IPv6.
    pub tcp6: bool,
    /// Long frames of UDP over IPv4 and IPv6.
    pub udp: bool,
}

impl Accepted {
    /// Those of a driver with these features.
    pub(super) fn of(features: u64) -> Self {
        let has = |bit: u32| features & 1 << bit != 0;
        let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
        Self {
            checksum,
            tcp4: checksum && has(VIRTIO_NET_F_GUEST_TSO4),
            tcp6: checksum && has(VIRTIO_NET_F_GUEST_TSO6),
            udp: checksum && has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6),
        }
    }
}

/// Carries frames between a card and the host, without waiting.
///
/// A packet is a frame with its `virtio_net_hdr_v1` before it. A backend without offloads ignores
/// the header of packets that it sends, and gives zeros for those that it receives.
///
/// Errors of [`io::ErrorKind::WouldBlock`] mean: later; the descriptor tells when.
/// [`io::ErrorKind::BrokenPipe`]: the other side is gone for ever. Any other: this packet is lost.
pub trait NetBackend: Send {
    /// Its name, for people: "passt", "tap tap0".
    fn name(&self) -> String;

    /// Number of queue pairs.
    fn pairs(&self) -> usize {
        1
    }

    /// Work that it takes over.
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    /// Longest IP packet that it carries, in bytes, if it has a limit of its own.
    fn mtu(&self) -> Option<u16> {
        None
    }

    /// The descriptor of a queue pair: readable when a packet is there, writable when one can be
    /// sent. `None`: nothing ever comes.
    fn fd(&self, pair: usize) -> Option<RawFd>;

    /// Sends a packet wholly, or keeps the part of it that does not fit for [`NetBackend::flush`].
    ///
    /// # Errors
    /// See the trait. With `WouldBlock` nothing of the packet is sent or kept.
    fn send(&mut self, pair: usize, packet: &[u8]) -> io::Result<()>;

    /// Sends what it has kept. False when there is still something.
    ///
    /// # Errors
    /// See the trait.
    fn flush(&mut self, _pair: usize) -> io::Result<bool> {
        Ok(true)
    }

    /// Puts the next packet into `packet`, in place of what is there.
    ///
    /// # Errors
    /// See the trait.
    fn receive(&mut self, pair: usize, packet: &mut Vec<u8>) -> io::Result<()>;

    /// Hears of a driver: the frames that it takes, and the number of queue pairs that it uses.
    ///
    /// # Errors
    /// The host refuses it.
    fn prepare(&mut self, _accepted: Accepted, _pairs: usize) -> io::Result<()> {
        Ok(())
    }
}

/// A card's place on the host. It outlives the device: a machine that takes the place of another
/// goes on with it.
pub struct NetPort {
    backend: Mutex<Box<dyn NetBackend>>,
    name: String,
    /// Packets and bytes so far.
    pub counters: NetCounters,
    /// The other side is gone: the link is down for good.
    gone: AtomicBool,
    /// Tells why, if somebody knows.
    last_words: Option<LastWords>,
}

/// Tells what a backend has said before it ended.
pub type LastWords = Box<dyn Fn() -> String + Send + Sync>;

/// Counts of what a card has carried, and what not.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Frames that the guest has sent.
    pub sent_frames: AtomicU64,
    /// Bytes of these.
    pub sent_bytes: AtomicU64,
    /// Frames that the guest has received.
    pub received_frames: AtomicU64,
    /// Bytes of these.
    pub received_bytes: AtomicU64,
    /// Frames of the guest to addresses that are denied.
    pub denied_frames: AtomicU64,
    /// Frames, either way, that could not be carried.
    pub dropped_frames: AtomicU64,
}

impl NetCounters {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_frames.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_frames.fetch_add(1, Ordering::Relaxed);
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn denied(&self) {
        self.denied_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped_frames.fetch_add(1, Ordering::Relaxed);
    }
}

impl NetPort {
    /// A place at `backend`.
    pub fn new(backend: Box<dyn NetBackend>) -> Self {
        Self {
            name: backend.name(),
            backend: Mutex::new(backend),
            counters: NetCounters::default(),
            gone: AtomicBool::new(false),
            last_words: None,
        }
    }

    /// Has `last_words` be asked for the log when the other side is gone.
    #[must_use]
    pub fn with_last_words(mut self, last_words: LastWords) -> Self {
        self.last_words = Some(last_words);
        self
    }

    /// Words that the other side has said before it ended, if any.
    pub(super) fn last_words(&self) -> String {
        self.last_words.as_ref().map_or(String::new(), |ask| ask())
    }

    /// The backend's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The other side is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    pub(super) fn backend(&self) -> MutexGuard<'_, Box<dyn NetBackend>> {
        lock(&self.backend)
    }
}

/// A second descriptor of what this process was given open as `number`, which no other program
/// inherits.
///
/// # Errors
/// Nothing is open there.
pub fn given_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    sys::duplicate(number)
}

/// No network: the link of the card is down.
#[derive(Debug)]
pub struct NoNetwork;

impl NetBackend for NoNetwork {
    fn name(&self) -> String {
        "none".to_owned()
    }

    /// All: a guest that knew another network is offered no less here. No frame passes.
    fn offloads(&self) -> Offloads {
        Offloads {
            checksum: true,
            tcp: true,
            udp: true,
        }
    }

    fn fd(&self, _pair: usize) -> Option<RawFd> {
        None
    }

    fn send(&mut self, _pair: usize, _packet: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn receive(&mut self, _pair: usize, _packet: &mut Vec<u8>) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

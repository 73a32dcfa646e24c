//! virtio-net: a network card (Virtio 1.2 section 5.1). Its place on the host is a [`NetPort`],
//! behind which is a [`NetBackend`].
//!
//! Frames are copied once each way, through a buffer of the device: what was checked is what is
//! sent. So a card keeps at most a packet for each queue and direction, and what its backend
//! keeps. All else stays in the guest's rings, or with the host's sender.
//!
//! A paused card leaves what comes with the host. A snapshot holds no packet. A restored card takes
//! its link down for a moment ([`link`]), and then asks the driver to announce its address.

mod backend;
mod config;
mod control;
mod header;
mod link;
mod policy;
mod serving;
mod spec;
mod stream;
mod tap;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ};
use vm_memory::GuestMemory;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use self::backend::Accepted;
pub use self::backend::{
    FRAME_BYTES_MAX, HEADER_BYTES, LastWords, NetBackend, NetCounters, NetPort, NoNetwork,
    Offloads, PACKET_BYTES_MAX, given_descriptor,
};
use self::link::{Link, TICK};
pub use self::policy::NetPolicy;
pub use self::spec::{Mac, NetRate, NetSource, NetSpec, Protocol, Published};
pub use self::stream::StreamBackend;
pub use self::tap::TapBackend;
use super::chain::{Buffers, Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use super::rate::{DiskRate, Throttle};
use crate::lifecycle::{LifecycleError, SavedDevice};
use crate::sys::Timer;

const KIND: &str = "virtio-net";
const VERSION: u16 = 1;
const QUEUE_SIZE: u16 = 256;
/// Most queue pairs of one card.
pub const PAIRS_MAX: usize = 16;
/// MTU of a network that does not tell its own.
const ETHERNET_MTU: u16 = 1500;

/// Numbers of the timers in epoll's events; below them are the queue pairs.
const SEND_TIMER: u64 = 1 << 32;
const RECEIVE_TIMER: u64 = SEND_TIMER + 1;
const LINK_TIMER: u64 = SEND_TIMER + 2;

/// Settings of a card that do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// Its address.
    pub mac: [u8; 6],
    /// Longest IP packet that the guest is told of, in bytes; 0: as the place on the host has it.
    pub mtu: u16,
    /// Queue pairs.
    pub pairs: usize,
    /// Limits, each way.
    pub rate: NetRate,
    /// Destinations that the guest may send to.
    pub policy: NetPolicy,
}

/// A network card.
pub struct Net {
    port: Arc<NetPort>,
    options: NetOptions,
    offloads: Offloads,
    queue_sizes: Vec<u16>,
    /// Features that the driver has accepted; `None` while there is no driver.
    driver: Option<u64>,
    /// Pairs that the driver uses.
    active_pairs: usize,
    /// The backend does not know yet what the driver does.
    is_unprepared: bool,
    link: Link,
    link_timer: Timer,
    pairs: Vec<Pair>,
    send_limit: Option<Throttle>,
    receive_limit: Option<Throttle>,
    epoll: Epoll,
    wakes: u64,
}

/// Work under way at a queue pair.
#[derive(Default)]
struct Pair {
    incoming: Incoming,
    /// A packet of the guest, while it is sent.
    outgoing: Vec<u8>,
    /// The limit has let the packet pass that is next in the ring, which the backend did not take.
    is_admitted: bool,
    /// The backend is waited for: to have a packet, and to take one.
    waits_to_receive: bool,
    waits_to_send: bool,
}

/// A packet for the guest.
#[derive(Default)]
struct Incoming {
    packet: Vec<u8>,
    is_there: bool,
    is_admitted: bool,
    written: usize,
    chains: u16,
    /// The first chain, whose header says the number of chains at the end.
    first: Buffers,
}

impl Incoming {
    /// No byte of it is in the guest any more.
    fn rewind(&mut self) {
        self.written = 0;
        self.chains = 0;
    }

    fn clear(&mut self) {
        self.rewind();
        self.is_there = false;
        self.is_admitted = false;
    }
}

/// State of [`Net`]. Packets that are under way are not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStateV1 {
    /// The card's address.
    pub mac: [u8; 6],
    /// Longest IP packet that the guest was told of, in bytes.
    pub mtu: u16,
    /// Queue pairs.
    pub pairs: u16,
    /// Queue pairs that the driver uses.
    pub active_pairs: u16,
}

impl Net {
    /// A card at `port`, with at most as many queue pairs as that has.
    ///
    /// # Errors
    /// The host refuses a descriptor.
    pub fn new(port: Arc<NetPort>, options: NetOptions) -> io::Result<Self> {
        let (offloads, has, is_none, mtu) = {
            let backend = port.backend();
            let is_none = backend.fd(0).is_none();
            (backend.offloads(), backend.pairs(), is_none, backend.mtu())
        };
        let mtu = match options.mtu {
            0 => mtu.unwrap_or(ETHERNET_MTU),
            given => given,
        };
        let count = options.pairs.clamp(1, has.clamp(1, PAIRS_MAX));
        let limit = || match options.rate.is_none() {
            true => Ok(None),
            false => Throttle::new(DiskRate::from(options.rate)).map(Some),
        };
        let net = Self {
            offloads,
            queue_sizes: Vec::new(),
            driver: None,
            active_pairs: 1,
            is_unprepared: true,
            link: Link::new(is_none || port.is_gone()),
            link_timer: Timer::new()?,
            pairs: (0..count).map(|_| Pair::default()).collect(),
            send_limit: limit()?,
            receive_limit: limit()?,
            epoll: Epoll::new()?,
            wakes: 0,
            options: NetOptions {
                pairs: count,
                mtu,
                ..options
            },
            port,
        };
        net.watch_all()?;
        Ok(net.with_pairs(count))
    }

    fn with_pairs(mut self, count: usize) -> Self {
        self.set_pairs(count);
        self
    }

    fn set_pairs(&mut self, count: usize) {
        self.options.pairs = count;
        self.queue_sizes = vec![QUEUE_SIZE; 2 * count + 1];
    }

    fn watch_all(&self) -> io::Result<()> {
        let add = |fd: RawFd, token, interest| {
            let event = EpollEvent::new(interest, token);
            self.epoll.ctl(ControlOperation::Add, fd, event)
        };
        let backend = self.port.backend();
        for pair in 0..self.pairs.len() {
            if let Some(fd) = backend.fd(pair) {
                let interest = EventSet::READ_HANG_UP | EventSet::ONE_SHOT;
                add(fd, pair as u64, interest)?;
            }
        }
        let limits = [
            (&self.send_limit, SEND_TIMER),
            (&self.receive_limit, RECEIVE_TIMER),
        ];
        for (limit, token) in limits {
            if let Some(limit) = limit {
                add(limit.events(), token, EventSet::IN)?;
            }
        }
        add(self.link_timer.fd(), LINK_TIMER, EventSet::IN)
    }

    /// Watches for what the pair waits for.
    fn watch(&mut self, pair: usize) {
        let waits = &self.pairs[pair];
        let mut interest = EventSet::ONE_SHOT | EventSet::READ_HANG_UP;
        interest.set(EventSet::IN, waits.waits_to_receive);
        interest.set(EventSet::OUT, waits.waits_to_send);
        let Some(fd) = self.port.backend().fd(pair) else {
            return;
        };
        let event = EpollEvent::new(interest, pair as u64);
        if let Err(error) = self.epoll.ctl(ControlOperation::Modify, fd, event) {
            tracing::error!(%error, "the network cannot be watched");
        }
    }

    fn has(&self, feature: u32) -> bool {
        self.driver
            .is_some_and(|features| features & 1 << feature != 0)
    }

    /// Index of the control queue. Without MQ the driver knows one pair only.
    fn control_queue(&self) -> usize {
        match self.has(VIRTIO_NET_F_MQ) {
            true => 2 * self.options.pairs,
            false => 2,
        }
    }

    /// Tells the backend what the driver does, in the thread that may do that.
    fn prepare(&mut self) {
        if !std::mem::take(&mut self.is_unprepared) {
            return;
        }
        let accepted = Accepted::of(self.driver.unwrap_or_default());
        let prepared = self.port.backend().prepare(accepted, self.active_pairs);
        if let Err(error) = prepared {
            tracing::warn!(%error, name = self.port.name(), "the network refuses a setting");
        }
    }

    /// The other side is gone for ever.
    fn lose_link(&mut self) {
        self.port.set_gone();
        if self.link.lose() {
            let said = self.port.last_words();
            tracing::warn!(
                name = self.port.name(),
                said,
                "the network of the VM is gone: its link is down"
            );
        }
    }

    fn rejected(instance: &str, reason: String) -> LifecycleError {
        LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: instance.to_owned(),
            reason,
        }
    }

    /// Forgets what the driver did.
    fn forget(&mut self) {
        self.driver = None;
        self.active_pairs = 1;
        self.is_unprepared = true;
        self.link.reset();
        for pair in &mut self.pairs {
            pair.incoming.clear();
            pair.is_admitted = false;
        }
        for limit in [&mut self.send_limit, &mut self.receive_limit] {
            limit.iter_mut().for_each(Throttle::reset);
        }
        self.wakes = 0;
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Net {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        config::features(self.offloads, self.options.pairs)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn take_queues(&mut self, count: usize) -> bool {
        let fits = count % 2 == 1 && (1..=self.options.pairs).contains(&(count / 2));
        if fits {
            self.set_pairs(count / 2);
        }
        fits
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let NetOptions {
            mac, mtu, pairs, ..
        } = self.options;
        let fields = config::fields(mac, self.link.status(), pairs, mtu);
        if offset < config::STATUS.end && offset + bytes.len() as u64 > config::STATUS.start {
            self.link.note_seen();
        }
        read_fields(&fields, offset, bytes);
    }

    fn activate(&mut self, driver_features: u64) {
        self.driver = Some(driver_features);
        self.is_unprepared = true;
    }

    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<Served, ChainError> {
        self.prepare();
        if queue_index == self.control_queue() {
            return self.command_queue(&chain, mem);
        }
        let pair = queue_index / 2;
        if pair >= self.options.pairs {
            return Err(ChainError::WrongShape);
        }
        match queue_index % 2 {
            0 => self.receive_queue(pair, chain, mem),
            _ => self.send_queue(pair, &chain, mem),
        }
    }

    fn take_back(&mut self, queue_index: usize, is_whole_ring: bool) {
        let Some(pair) = self.pairs.get_mut(queue_index / 2) else {
            return;
        };
        pair.incoming.rewind();
        if is_whole_ring {
            // It never fits.
            pair.incoming.clear();
            self.port.counters.dropped();
            self.wakes |= 1 << queue_index;
        }
    }

    fn host_events(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }

    fn on_host_events(&mut self) {
        let mut events = [EpollEvent::default(); PAIRS_MAX + 3];
        let count = match self.epoll.wait(0, &mut events) {
            Ok(count) => count,
            Err(error) => {
                tracing::error!(%error, "the network cannot be waited for");
                return;
            }
        };
        for event in &events[..count] {
            match event.data() {
                SEND_TIMER => self.send_limit.iter_mut().for_each(Throttle::on_timer),
                RECEIVE_TIMER => self.receive_limit.iter_mut().for_each(Throttle::on_timer),
                LINK_TIMER => self.on_tick(),
                pair => self.on_ready(pair as usize, event.event_set()),
            }
        }
    }

    fn take_wakes(&mut self) -> u64 {
        let limits = [&mut self.send_limit, &mut self.receive_limit];
        let limits = limits.into_iter().flatten();
        limits.fold(std::mem::take(&mut self.wakes), |wakes, limit| {
            wakes | limit.take_wakes()
        })
    }

    fn take_config_change(&mut self) -> bool {
        self.link.take_change() && self.driver.is_some()
    }

    fn reset(&mut self) {
        self.forget();
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        let state = NetStateV1 {
            mac: self.options.mac,
            mtu: self.options.mtu,
            pairs: self.options.pairs as u16,
            active_pairs: self.active_pairs as u16,
        };
        SavedDevice::encode(KIND, VERSION, instance, &state)
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: NetStateV1 = saved.decode(KIND, VERSION, instance)?;
        if usize::from(state.pairs) != self.options.pairs
            || !(1..=state.pairs).contains(&state.active_pairs)
        {
            return Err(Self::rejected(
                instance,
                format!(
                    "the snapshot's card has {} queue pairs, of which {} are used, and this one \
                     has {}; give --net with 'queues=' and the number that it had",
                    state.pairs, state.active_pairs, self.options.pairs
                ),
            ));
        }
        let mtu = self.port.backend().mtu();
        if let Some(mtu) = mtu.filter(|mtu| *mtu < state.mtu) {
            return Err(Self::rejected(
                instance,
                format!(
                    "the guest sends packets of up to {} B (its MTU), and {} carries {mtu} B; \
                     raise the MTU of that device, or give another --net",
                    state.mtu,
                    self.port.name()
                ),
            ));
        }
        self.forget();
        self.options.mac = state.mac;
        self.options.mtu = state.mtu;
        self.active_pairs = usize::from(state.active_pairs);
        self.link.bounce();
        self.start_ticking();
        Ok(())
    }
}

impl Net {
    fn start_ticking(&mut self) {
        if let Err(error) = self.link_timer.set(TICK) {
            tracing::error!(%error, "the link of the VM does not come up");
        }
    }

    fn on_tick(&mut self) {
        self.link_timer.stop();
        let announces = self.has(VIRTIO_NET_F_GUEST_ANNOUNCE);
        match self.link.tick(self.driver.is_some(), announces) {
            true => self.start_ticking(),
            false => self.wake_all(),
        }
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;
#[cfg(test)]
mod passt_test;
#[cfg(test)]
mod tap_test;

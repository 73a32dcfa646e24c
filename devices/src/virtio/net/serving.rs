//! Packets and commands: what the card does with the chains of its queues.

use std::io::ErrorKind;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::GuestMemory;
use vmm_sys_util::epoll::EventSet;

use super::backend::Accepted;
use super::control::{self, Command};
use super::policy::Refused;
use super::{HEADER_BYTES, Net, PACKET_BYTES_MAX, header};
use crate::virtio::chain::{Chain, ChainError};
use crate::virtio::device::Served;

/// Shortest frame: an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
/// Packets that are dropped in one turn, before others get theirs.
const DROPS_PER_TURN: usize = 64;

impl Net {
    pub(super) fn receive_queue<Mem: GuestMemory>(
        &mut self,
        pair: usize,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if !chain.readable.is_empty() {
            return Err(ChainError::WrongShape);
        }
        let room = usize::try_from(chain.writable.len_bytes()).unwrap_or(usize::MAX);
        let is_merged = self.has(VIRTIO_NET_F_MRG_RXBUF);
        if room < HEADER_BYTES && (!is_merged || self.pairs[pair].incoming.chains == 0) {
            return Err(ChainError::WrongShape);
        }
        loop {
            if !self.next_incoming(pair) {
                return Ok(Served::NotYet);
            }
            let incoming = &mut self.pairs[pair].incoming;
            if is_merged || room >= incoming.packet.len() {
                break;
            }
            // A driver without merged buffers has too short ones.
            incoming.clear();
            self.port.counters.dropped();
        }
        let incoming = &mut self.pairs[pair].incoming;
        let rest = &incoming.packet[incoming.written..];
        let part = rest.len().min(room);
        chain.writable.write(mem, &rest[..part])?;
        incoming.written += part;
        incoming.chains += 1;
        let is_whole = part == rest.len();
        if incoming.chains == 1 {
            incoming.first = chain.writable;
        }
        if !is_whole {
            return Ok(Served::Part(part as u32));
        }
        let mut first = std::mem::take(&mut incoming.first);
        let chains = incoming.chains.to_le_bytes();
        let number = first.split_off(header::NUM_BUFFERS as u64);
        number.write(mem, &chains)?;
        self.port
            .counters
            .received(incoming.packet.len() - HEADER_BYTES);
        incoming.clear();
        Ok(Served::Done(part as u32))
    }

    /// Has the next packet for the guest be there. False when there is none for now.
    fn next_incoming(&mut self, pair: usize) -> bool {
        if !self.pairs[pair].incoming.is_there && !self.take_incoming(pair) {
            return false;
        }
        let incoming = &mut self.pairs[pair].incoming;
        if !incoming.is_admitted
            && let Some(limit) = &mut self.receive_limit
            && !limit.admit(2 * pair, (incoming.packet.len() - HEADER_BYTES) as u64)
        {
            return false;
        }
        incoming.is_admitted = true;
        true
    }

    /// Takes a packet from the backend.
    fn take_incoming(&mut self, pair: usize) -> bool {
        if !self.link.is_up() || pair >= self.active_pairs {
            return false;
        }
        let accepted = Accepted::of(self.driver.unwrap_or_default());
        for _ in 0..DROPS_PER_TURN {
            let incoming = &mut self.pairs[pair].incoming;
            let received = self.port.backend().receive(pair, &mut incoming.packet);
            match received.map_err(|error| error.kind()) {
                Ok(()) if is_packet(&incoming.packet, accepted) => {
                    incoming.is_there = true;
                    return true;
                }
                Err(ErrorKind::WouldBlock) => {
                    self.pairs[pair].waits_to_receive = true;
                    self.watch(pair);
                    return false;
                }
                Err(ErrorKind::BrokenPipe) => {
                    self.lose_link();
                    return false;
                }
                Ok(()) | Err(_) => self.port.counters.dropped(),
            }
        }
        self.wakes |= 1 << (2 * pair);
        false
    }

    pub(super) fn send_queue<Mem: GuestMemory>(
        &mut self,
        pair: usize,
        chain: &Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if !chain.writable.is_empty() {
            return Err(ChainError::WrongShape);
        }
        let length = usize::try_from(chain.readable.len_bytes()).unwrap_or(usize::MAX);
        let fits = (HEADER_BYTES + FRAME_BYTES_MIN..=PACKET_BYTES_MAX).contains(&length);
        if !fits || !self.link.is_up() {
            self.port.counters.dropped();
            return Ok(Served::Done(0));
        }
        let state = &mut self.pairs[pair];
        if !state.is_admitted
            && let Some(limit) = &mut self.send_limit
            && !limit.admit(2 * pair + 1, (length - HEADER_BYTES) as u64)
        {
            return Ok(Served::NotYet);
        }
        state.is_admitted = true;
        state.outgoing.resize(length, 0);
        chain.readable.read(mem, &mut state.outgoing)?;
        Ok(match self.send(pair) {
            true => Served::Done(0),
            false => Served::NotYet,
        })
    }

    /// Sends the packet that is copied from the guest. False when the backend takes none for now.
    fn send(&mut self, pair: usize) -> bool {
        let counters = &self.port.counters;
        let state = &mut self.pairs[pair];
        let packet = &state.outgoing;
        let checked = self.options.policy.check(&packet[HEADER_BYTES..]);
        let may = header::may_be_sent(packet, self.driver.unwrap_or_default());
        let sent = match checked {
            Err(Refused::Denied) => {
                counters.denied();
                Ok(())
            }
            Ok(()) if may => {
                let mut backend = self.port.backend();
                let sent = backend
                    .send(pair, packet)
                    .and_then(|()| backend.flush(pair));
                sent.map(|is_all| {
                    state.waits_to_send = !is_all;
                    counters.sent(packet.len() - HEADER_BYTES);
                })
            }
            _ => Err(ErrorKind::InvalidData.into()),
        };
        match sent.map_err(|error| error.kind()) {
            Ok(()) => {}
            Err(ErrorKind::WouldBlock) => {
                state.waits_to_send = true;
                self.watch(pair);
                return false;
            }
            Err(ErrorKind::BrokenPipe) => self.lose_link(),
            Err(_) => counters.dropped(),
        }
        let state = &mut self.pairs[pair];
        state.is_admitted = false;
        if state.waits_to_send {
            self.watch(pair);
        }
        true
    }

    pub(super) fn command_queue<Mem: GuestMemory>(
        &mut self,
        chain: &Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        let is_ok = match Command::read(chain, mem)? {
            Command::Announced => {
                self.link.note_announced();
                true
            }
            Command::UsePairs(count) => {
                let count = usize::from(count);
                let fits = (1..=self.options.pairs).contains(&count);
                if fits {
                    self.use_pairs(count);
                }
                fits
            }
            Command::Other => true,
        };
        control::answer(chain, mem, is_ok).map(Served::Done)
    }

    fn use_pairs(&mut self, count: usize) {
        self.active_pairs = count;
        self.is_unprepared = true;
        self.wake_all();
    }

    /// All queues are looked at anew.
    pub(super) fn wake_all(&mut self) {
        self.wakes |= (1 << (2 * self.options.pairs)) - 1;
    }

    /// Acts on events of the host that a pair has waited for.
    pub(super) fn on_ready(&mut self, pair: usize, events: EventSet) {
        let over = EventSet::HANG_UP | EventSet::READ_HANG_UP | EventSet::ERROR;
        let Some(state) = self.pairs.get_mut(pair) else {
            return;
        };
        let can_receive = events.intersects(over | EventSet::IN);
        state.waits_to_receive &= !can_receive;
        let waited_to_send = std::mem::take(&mut state.waits_to_send);
        let flushed = match waited_to_send {
            true => self.port.backend().flush(pair),
            false => Ok(true),
        };
        // What is left to read comes before the end, if somebody reads it.
        if flushed.is_err() || events.intersects(over) && self.driver.is_none() {
            return self.lose_link();
        }
        let state = &mut self.pairs[pair];
        state.waits_to_send = !flushed.unwrap_or(true);
        if state.waits_to_send || state.waits_to_receive || self.driver.is_none() {
            self.watch(pair);
        }
        if can_receive {
            self.wakes |= 1 << (2 * pair);
        }
        if waited_to_send {
            self.wakes |= 1 << (2 * pair + 1);
        }
    }
}

/// A packet is one, and its driver takes it.
fn is_packet(packet: &[u8], accepted: Accepted) -> bool {
    (HEADER_BYTES + FRAME_BYTES_MIN..=PACKET_BYTES_MAX).contains(&packet.len())
        && header::may_be_received(packet, accepted)
}

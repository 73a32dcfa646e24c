//! virtio-vsock: streams between programs in the guest and programs on the host (Virtio 1.2 section
//! 5.10).
//!
//! On the host the device is a unix socket. Example: a program connects to it and writes `CONNECT
//! 512\n`. The program then has a stream to the listener at port 512 in the guest, which begins
//! with `OK <port of the host>\n`. A stream that the guest asks for goes to the listener at the
//! socket `<path of the device's socket>_<port>`; to a port below 1024 only if it comes from a port
//! below 1024. All guests have the same CID: each has a socket of its own.
//!
//! A paused device leaves its streams as they are. A restored device has no streams. It first sends
//! the driver a transport reset event; programs in the guest see their streams broken, and listen
//! on.

mod connection;
mod packet;
mod spec;
mod streams;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vm_memory::GuestMemory;

use self::packet::HOST_CID;
pub use self::spec::VsockSpec;
use self::streams::Streams;
use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use crate::host_socket::HostSocket;
use crate::lifecycle::{LifecycleError, SavedDevice};

/// The CID of every guest; the lowest that a guest may have.
pub const GUEST_CID: u64 = 3;

const KIND: &str = "virtio-vsock";
const VERSION: u16 = 1;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;
const QUEUE_SIZES: [u16; 3] = [128; 3];
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: all streams are gone, and the guest's CID may be another.
const EVENT_TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

/// Streams between the guest and the host.
pub struct Vsock {
    streams: Streams,
    /// A driver works with the device.
    is_active: bool,
    /// The driver has streams from before a restore, and is to be told that they are gone.
    owes_reset: bool,
    /// Queues that were refused a request, or were empty, and that there is a use for now.
    wakes: u64,
}

/// State of [`Vsock`]. Streams end with a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockStateV1 {
    /// The CID that the guest knows as its own.
    pub guest_cid: u64,
}

impl Vsock {
    /// A device whose host side is `socket`.
    ///
    /// # Errors
    /// The host refuses a descriptor.
    pub fn new(socket: Arc<HostSocket>) -> io::Result<Self> {
        Ok(Self {
            streams: Streams::new(GUEST_CID, socket)?,
            is_active: false,
            owes_reset: false,
            wakes: 0,
        })
    }

    fn end_streams(&mut self, guest_cid: u64) {
        self.streams.clear(guest_cid);
        self.is_active = false;
        self.owes_reset = false;
        self.wakes = 0;
    }

    fn receive_queue<Mem: GuestMemory>(
        &mut self,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        let room = packet::room(&chain)?;
        let could_take = self.streams.can_take();
        if self.owes_reset {
            return Ok(Served::NotYet);
        }
        let Some((header, payload)) = self.streams.next_packet(room) else {
            return Ok(Served::NotYet);
        };
        if !could_take && self.streams.can_take() {
            self.wakes |= 1 << TRANSMIT;
        }
        packet::write(&header, &payload, chain.writable, mem).map(Served::Done)
    }

    fn transmit_queue<Mem: GuestMemory>(
        &mut self,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if !self.streams.can_take() {
            return Ok(Served::NotYet);
        }
        let packet = packet::read(chain, mem)?;
        self.streams.receive(&packet);
        self.wake_receive();
        Ok(Served::Done(0))
    }

    fn event_queue<Mem: GuestMemory>(
        &mut self,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if !chain.readable.is_empty()
            || chain.writable.len_bytes() < EVENT_TRANSPORT_RESET.len() as u64
        {
            return Err(ChainError::WrongShape);
        }
        if !std::mem::take(&mut self.owes_reset) {
            return Ok(Served::NotYet);
        }
        chain.writable.write(mem, &EVENT_TRANSPORT_RESET)?;
        self.wake_receive();
        Ok(Served::Done(EVENT_TRANSPORT_RESET.len() as u32))
    }

    fn wake_receive(&mut self) {
        if self.streams.has_output() {
            self.wakes |= 1 << RECEIVE;
        }
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Vsock {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    /// None: a device without any has stream sockets (section 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_fields(&self.streams.guest_cid().to_le_bytes(), offset, bytes);
    }

    fn activate(&mut self, _driver_features: u64) {
        self.is_active = true;
    }

    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<Served, ChainError> {
        match queue_index {
            RECEIVE => self.receive_queue(chain, mem),
            TRANSMIT => self.transmit_queue(chain, mem),
            EVENT => self.event_queue(chain, mem),
            _ => Err(ChainError::WrongShape),
        }
    }

    fn host_events(&self) -> Option<RawFd> {
        Some(self.streams.events())
    }

    fn on_host_events(&mut self) {
        self.streams.on_host_events(self.is_active);
        self.wake_receive();
    }

    fn take_wakes(&mut self) -> u64 {
        std::mem::take(&mut self.wakes)
    }

    fn reset(&mut self) {
        self.end_streams(self.streams.guest_cid());
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        let state = VsockStateV1 {
            guest_cid: self.streams.guest_cid(),
        };
        SavedDevice::encode(KIND, VERSION, instance, &state)
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: VsockStateV1 = saved.decode(KIND, VERSION, instance)?;
        // Section 5.10.4: the upper half is reserved, and so are a few numbers.
        if !(HOST_CID + 1..u64::from(u32::MAX)).contains(&state.guest_cid) {
            return Err(LifecycleError::Rejected {
                kind: KIND.to_owned(),
                instance: instance.to_owned(),
                reason: format!(
                    "no guest has the CID {}; the state is damaged",
                    state.guest_cid
                ),
            });
        }
        self.end_streams(state.guest_cid);
        self.streams.use_other_ports();
        self.owes_reset = true;
        Ok(())
    }
}

#[cfg(test)]
mod stress_test;
#[cfg(test)]
mod test_guest;
#[cfg(test)]
#[path = "vsock_test.rs"]
mod vsock_test;

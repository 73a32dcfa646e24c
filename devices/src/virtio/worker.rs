//! The half of a virtio device that works on its queues, driven by the event thread.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::{Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice};
use crate::irq::IrqLine;
use crate::lock::lock;

/// While a long run of requests is served, the driver is told about finished ones this often.
const SIGNAL_EVERY: u16 = 32;

/// Offset of the elements in a used ring, and the length of each, in bytes (Virtio 1.2 section
/// 2.7.8).
const USED_ELEMENTS: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;

/// Registers that the worker writes for the driver. They are outside both locks, so that a vCPU can
/// read them while the worker waits for I/O.
pub(super) struct Signals {
    pub(super) interrupt_status: AtomicU32,
    pub(super) needs_reset: AtomicBool,
    pub(super) line: Arc<dyn IrqLine>,
    /// The device is paused, or is to be: no request is begun any more.
    pub(super) pausing: AtomicBool,
    /// Threads that wait for the worker, which leaves the rest of a ring for later then.
    waiting: AtomicU32,
}

impl Signals {
    pub(super) fn new(line: Arc<dyn IrqLine>) -> Self {
        Self {
            interrupt_status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
            pausing: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
        }
    }

    /// Locks the worker, after at most the request that it is at.
    pub(super) fn enter<'w, M: GuestAddressSpace>(
        &self,
        worker: &'w Mutex<Worker<M>>,
    ) -> MutexGuard<'w, Worker<M>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let worker = lock(worker);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        worker
    }

    /// True when no more requests are to be served in this turn, of which `served` were.
    fn must_yield(&self, served: u16) -> bool {
        self.pausing.load(Ordering::SeqCst) || served > 0 && self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Sets causes of an interrupt that is raised later.
    pub(super) fn note(&self, causes: u32) {
        self.interrupt_status.fetch_or(causes, Ordering::SeqCst);
    }

    pub(super) fn raise(&self, causes: u32) {
        self.note(causes);
        if let Err(error) = self.line.raise() {
            tracing::error!(%error, "cannot raise a virtio interrupt");
        }
    }
}

/// Reasons why the device cannot go on without a reset.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("queue: {0}")]
    Ring(RingError),
}

impl From<RingError> for Broken {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

pub(super) struct Worker<M: GuestAddressSpace> {
    pub(super) instance: String,
    pub(super) device: Box<dyn VirtioDevice<M::M>>,
    pub(super) memory: M,
    /// One per queue of the device; present while the driver is ready and the queue enabled.
    pub(super) queues: Vec<Option<Queue>>,
    pub(super) paused: bool,
    /// Events of the host came while the device was paused, and are not watched for until a queue
    /// is kicked.
    pub(super) host_waits: bool,
    pub(super) signals: Arc<Signals>,
    pub(super) kicks: Arc<[EventFd]>,
}

impl<M: GuestAddressSpace> Worker<M> {
    /// Serves what is in a queue, up to one ring full, or until somebody waits for the worker; when
    /// there is more, the queue is kicked again, so that other devices get their turn. A pause
    /// leaves the rest in the ring, and a resume kicks the queue.
    pub(super) fn serve_queue(&mut self, index: usize) {
        let pausing = self.signals.pausing.load(Ordering::SeqCst);
        if self.paused || pausing || self.signals.needs_reset.load(Ordering::SeqCst) {
            return;
        }
        let Some(Some(queue)) = self.queues.get_mut(index) else {
            return;
        };
        let memory = self.memory.memory();
        match serve_ring(&mut *self.device, &*memory, queue, index, &self.signals) {
            Ok(false) => {}
            Ok(true) => self.kick(index),
            Err(reason) => {
                tracing::warn!(
                    instance = self.instance,
                    queue = index,
                    %reason,
                    "device needs a reset"
                );
                self.require_reset();
            }
        }
        self.after_serving();
    }

    /// Lets the device act on the host's events. When it is paused, gives false, and the events
    /// stay.
    fn serve_host(&mut self) -> bool {
        if self.paused {
            self.host_waits = true;
            return false;
        }
        self.device.on_host_events();
        self.after_serving();
        true
    }

    /// Tells the driver what has changed, and kicks the queues that the device can serve now.
    fn after_serving(&mut self) {
        if self.device.take_config_change() {
            self.signals.raise(VIRTIO_MMIO_INT_CONFIG);
        }
        let wakes = self.device.take_wakes();
        for index in (0..self.queues.len()).filter(|&index| wakes & (1_u64 << index) != 0) {
            self.kick(index);
        }
    }

    /// Makes the event thread look at the queues of a device that goes on: a kick that came while
    /// it was paused was swallowed, and one that came before the snapshot is in no state.
    /// Queues that no driver has set up hold nothing: the event thread is not woken for a
    /// device without any, which would take a CPU from the guest for nothing.
    pub(super) fn kick_resumed(&mut self) {
        let host_waits = std::mem::take(&mut self.host_waits);
        for (index, queue) in self.queues.iter().enumerate() {
            if host_waits || queue.is_some() {
                self.kick(index);
            }
        }
    }

    /// Makes the event thread look at a queue.
    pub(super) fn kick(&self, index: usize) {
        if let Some(event) = self.kicks.get(index) {
            // The counter can only be full when the event thread has been told already.
            let _ = event.write(1);
        }
    }

    /// Stops the device and tells the driver (Virtio 1.2 section 2.1.2, DEVICE_NEEDS_RESET).
    pub(super) fn require_reset(&mut self) {
        self.signals.needs_reset.store(true, Ordering::SeqCst);
        self.signals
            .raise(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
    }
}

/// Serves up to one ring full of requests. Answers whether there are more that the device has a use
/// for.
fn serve_ring<Mem: GuestMemory>(
    device: &mut dyn VirtioDevice<Mem>,
    memory: &Mem,
    queue: &mut Queue,
    index: usize,
    signals: &Signals,
) -> Result<bool, Broken> {
    let size = queue.size();
    let mut served = 0;
    let mut unsignalled = 0;
    let mut refused = false;
    // Chains of a request that goes on in the next one.
    let mut parts = Vec::with_capacity(1);
    queue.disable_notification(memory)?;
    while served < size && !signals.must_yield(served) {
        let Some(descriptors) = queue.iter(memory)?.next() else {
            break;
        };
        let chain = Chain::walk(descriptors, size)?;
        let head_index = chain.head_index();
        match device.serve(index, chain, memory)? {
            Served::Done(written_bytes) => parts.push((head_index, written_bytes)),
            Served::Part(written_bytes) => {
                parts.push((head_index, written_bytes));
                continue;
            }
            Served::NotYet => {
                queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                refused = true;
                break;
            }
        }
        add_used_at_once(queue, memory, &parts, signals)?;
        parts.clear();
        served += 1;
        unsignalled += 1;
        if unsignalled == SIGNAL_EVERY {
            unsignalled = 0;
            signal_used(queue, memory, signals)?;
        }
    }
    // The driver notifies when there is more than what was looked at here.
    let more = queue.enable_notification(memory)?;
    if !parts.is_empty() {
        let taken = parts.len() as u16;
        queue.set_next_avail(queue.next_avail().wrapping_sub(taken));
        device.take_back(index, taken == size);
    }
    if unsignalled > 0 {
        signal_used(queue, memory, signals)?;
    }
    Ok(more && !refused)
}

/// Gives chains back to the driver, all by one write of the ring's index.
fn add_used_at_once<Mem: GuestMemory>(
    queue: &mut Queue,
    memory: &Mem,
    chains: &[(u16, u32)],
    signals: &Signals,
) -> Result<(), Broken> {
    let Some((&(last, last_bytes), first)) = chains.split_last() else {
        return Ok(());
    };
    if first.is_empty() {
        return Ok(queue.add_used(memory, last, last_bytes)?);
    }
    if queue.event_idx_enabled() {
        // The queue counts one chain of those below, and is to count nothing before them.
        signal_used(queue, memory, signals)?;
    }
    let old = queue.next_used();
    for (at, &(head, written_bytes)) in (0..).zip(first) {
        let slot = u64::from(old.wrapping_add(at) % queue.size());
        let element = [u32::from(head).to_le(), written_bytes.to_le()];
        let address = GuestAddress(queue.used_ring() + USED_ELEMENTS + slot * USED_ELEMENT_BYTES);
        memory.write_obj(element, address).map_err(ring_memory)?;
    }
    queue.set_next_used(old.wrapping_add(first.len() as u16));
    queue.add_used(memory, last, last_bytes)?;
    if queue.event_idx_enabled() {
        fence(Ordering::SeqCst);
        let event = GuestAddress(queue.avail_ring() + 4 + 2 * u64::from(queue.size()));
        let event: u16 = memory.load(event, Ordering::Relaxed).map_err(ring_memory)?;
        let new = queue.next_used();
        let is_awaited =
            new.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < new.wrapping_sub(old);
        if is_awaited {
            signals.raise(VIRTIO_MMIO_INT_VRING);
        }
    }
    Ok(())
}

fn ring_memory(error: GuestMemoryError) -> RingError {
    RingError::GuestMemory(error)
}

fn signal_used<Mem: GuestMemory>(
    queue: &mut Queue,
    memory: &Mem,
    signals: &Signals,
) -> Result<(), RingError> {
    if queue.needs_notification(memory)? {
        signals.raise(VIRTIO_MMIO_INT_VRING);
    }
    Ok(())
}

/// Carries queue notifications, and what happens on the host, from their descriptors to the device.
/// Give it to the event thread's `EventManager`.
pub struct QueueSubscriber<M: GuestAddressSpace> {
    worker: Arc<Mutex<Worker<M>>>,
    kicks: Arc<[EventFd]>,
    host_events: Option<RawFd>,
    /// The host's events are not watched for: the device is paused, and they would come again and
    /// again.
    muted: bool,
}

impl<M: GuestAddressSpace> QueueSubscriber<M> {
    pub(super) fn new(worker: Arc<Mutex<Worker<M>>>, kicks: Arc<[EventFd]>) -> Self {
        let host_events = lock(&worker).device.host_events();
        Self {
            worker,
            kicks,
            host_events,
            muted: false,
        }
    }

    /// A device that is resumed after this has its queues kicked, so it is seen then.
    fn mute(&mut self, muted: bool, ops: &mut EventOps) {
        let Some(fd) = self.host_events else { return };
        let interest = if muted {
            EventSet::empty()
        } else {
            EventSet::IN
        };
        if self.muted != muted {
            match ops.modify(Events::with_data_raw(fd, self.kicks.len() as u32, interest)) {
                Ok(()) => self.muted = muted,
                Err(error) => tracing::error!(%error, "cannot change what is watched for a device"),
            }
        }
    }
}

impl<M: GuestAddressSpace> MutEventSubscriber for QueueSubscriber<M> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let index = events.data() as usize;
        if let Some(kick) = self.kicks.get(index) {
            // Taken before looking at the queue, so that a kick during the look makes another one.
            let _ = kick.read();
        }
        let worker = Arc::clone(&self.worker);
        let mut worker = lock(&worker);
        if index < self.kicks.len() {
            worker.serve_queue(index);
            let stays = self.muted && worker.paused;
            worker.host_waits |= stays;
            self.mute(stays, ops);
        } else {
            let served = worker.serve_host();
            self.mute(!served, ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let kicks = self.kicks.iter().map(AsRawFd::as_raw_fd);
        for (index, fd) in (0..).zip(kicks.chain(self.host_events)) {
            if let Err(error) = ops.add(Events::with_data_raw(fd, index, EventSet::IN)) {
                tracing::error!(
                    %error,
                    event = index,
                    "cannot watch a device; its requests will not be served"
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;

//! The half of a virtio device that works on its queues, driven by the event thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::{Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemory};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, ChainError};
use super::device::VirtioDevice;
use crate::irq::IrqLine;
use crate::lock::lock;

/// While a long run of requests is served, the driver is told about finished ones this often.
const SIGNAL_EVERY: u16 = 32;

/// What the worker tells the driver through registers: kept outside both locks, so that a vCPU reads it while the
/// worker waits for I/O.
pub(super) struct Signals {
    pub(super) interrupt_status: AtomicU32,
    pub(super) needs_reset: AtomicBool,
    pub(super) line: Arc<dyn IrqLine>,
}

impl Signals {
    pub(super) fn new(line: Arc<dyn IrqLine>) -> Self {
        Self {
            interrupt_status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        }
    }

    pub(super) fn raise(&self, causes: u32) {
        self.interrupt_status.fetch_or(causes, Ordering::SeqCst);
        if let Err(error) = self.line.raise() {
            tracing::error!(%error, "cannot raise a virtio interrupt");
        }
    }
}

/// Why the device cannot go on without a reset.
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
    pub(super) signals: Arc<Signals>,
    pub(super) kicks: Arc<[EventFd]>,
}

impl<M: GuestAddressSpace> Worker<M> {
    /// Serves what is in a queue, up to one ring full; when there is more, the queue is kicked again, so that other
    /// devices get their turn.
    pub(super) fn serve_queue(&mut self, index: usize) {
        if self.paused || self.signals.needs_reset.load(Ordering::SeqCst) {
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
                tracing::warn!(instance = self.instance, queue = index, %reason, "device needs a reset");
                self.require_reset();
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
        self.signals.raise(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
    }
}

/// Serves up to one ring full of requests. Answers whether there are more.
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
    queue.disable_notification(memory)?;
    while served < size {
        let Some(descriptors) = queue.iter(memory)?.next() else {
            break;
        };
        let chain = Chain::walk(descriptors, size)?;
        let head_index = chain.head_index();
        let written_bytes = device.serve(index, chain, memory)?;
        queue.add_used(memory, head_index, written_bytes)?;
        served += 1;
        unsignalled += 1;
        if unsignalled == SIGNAL_EVERY {
            unsignalled = 0;
            signal_used(queue, memory, signals)?;
        }
    }
    let more = queue.enable_notification(memory)?;
    if unsignalled > 0 {
        signal_used(queue, memory, signals)?;
    }
    Ok(more)
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

/// Carries queue notifications from their eventfds to the device. Give it to the event thread's `EventManager`.
pub struct QueueSubscriber<M: GuestAddressSpace> {
    pub(super) worker: Arc<Mutex<Worker<M>>>,
    pub(super) kicks: Arc<[EventFd]>,
}

impl<M: GuestAddressSpace> MutEventSubscriber for QueueSubscriber<M> {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let index = events.data() as usize;
        let Some(kick) = self.kicks.get(index) else { return };
        // Taken before looking at the queue, so that a kick during the look makes another one.
        let _ = kick.read();
        lock(&self.worker).serve_queue(index);
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (index, kick) in self.kicks.iter().enumerate() {
            if let Err(error) = ops.add(Events::with_data(kick, index as u32, EventSet::IN)) {
                tracing::error!(%error, queue = index, "cannot watch a queue; its requests will not be served");
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;

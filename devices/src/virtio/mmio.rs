//! The virtio-mmio transport, version 2 (Virtio 1.2 section 4.2).

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::VirtioDevice;
use super::queue::{Half, QueueRegisters};
use super::worker::{QueueSubscriber, Signals, Worker};
use crate::bus::BusDevice;
use crate::irq::IrqLine;

/// Length of the MMIO range of one device in bytes: registers, then configuration space.
pub const MMIO_LEN: u64 = 0x200;
/// Offset of the QueueNotify register, to which the machine may bind the queues' eventfds with
/// KVM_IOEVENTFD, 4 bytes wide, with the queue's index as datamatch.
pub const QUEUE_NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR_ID: u32 = u32::from_le_bytes(*b"nvvm");
const CONFIG_OFFSET: u64 = VIRTIO_MMIO_CONFIG as u64;
/// Length of a shared memory region that the device does not have (section 4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;
const TRANSPORT_FEATURES: u64 =
    (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_INDIRECT_DESC) | (1 << VIRTIO_RING_F_EVENT_IDX);
/// The status bits that a driver sets, in the order in which it must.
pub(super) const DRIVER_STATUS_BITS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

/// Reasons why a transport cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No eventfd for a queue.
    #[error("cannot make an eventfd for a virtio queue: {0}; raise the limit of open files")]
    Event(#[source] io::Error),
    /// The device asks for an impossible queue size.
    #[error("virtio queue size {0} is not a power of two up to 32768")]
    QueueSize(u16),
}

/// A virtio device at an MMIO range: registers, feature negotiation and queue set-up. Requests are
/// served by the event thread through [`MmioTransport::subscriber`].
pub struct MmioTransport<M: GuestAddressSpace> {
    pub(super) instance: String,
    pub(super) registers: Registers,
    pub(super) paused: bool,
    pub(super) signals: Arc<Signals>,
    pub(super) kicks: Arc<[EventFd]>,
    pub(super) worker: Arc<Mutex<Worker<M>>>,
}

/// Values that the driver writes and reads back.
pub(super) struct Registers {
    pub(super) offered_features: u64,
    pub(super) driver_features: u64,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) queue_sel: u32,
    /// Without DEVICE_NEEDS_RESET, which is the worker's.
    pub(super) status: u32,
    pub(super) config_generation: u32,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    fn has(&self, status_bit: u32) -> bool {
        self.status & status_bit != 0
    }

    /// The selected queue, while the driver may set it up.
    fn configurable_queue(&mut self) -> Option<&mut QueueRegisters> {
        let allowed = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let queue = self.queues.get_mut(self.queue_sel as usize)?;
        (allowed && !queue.ready).then_some(queue)
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_sel as usize)
    }

    pub(super) fn event_idx(&self) -> bool {
        self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0
    }

    fn reset(&mut self) {
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.status = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
    }
}

impl<M: GuestAddressSpace> MmioTransport<M> {
    /// Puts `device` behind a transport. `instance` names it among the machine's devices ("disk0").
    ///
    /// # Errors
    /// No eventfd could be made, or the device asks for an impossible queue.
    pub fn new(
        instance: &str,
        device: Box<dyn VirtioDevice<M::M>>,
        memory: M,
        line: Arc<dyn IrqLine>,
    ) -> Result<Self, TransportError> {
        let queues: Vec<_> = device
            .queue_sizes()
            .iter()
            .copied()
            .map(QueueRegisters::new)
            .collect();
        if let Some(queue) = queues
            .iter()
            .find(|queue| queue.build(0, 0, false).is_none())
        {
            return Err(TransportError::QueueSize(queue.max_size));
        }
        let kicks = queues
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<Arc<[EventFd]>>>()
            .map_err(TransportError::Event)?;
        let signals = Arc::new(Signals::new(line));
        let registers = Registers {
            offered_features: device.features() | TRANSPORT_FEATURES,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            status: 0,
            config_generation: 0,
            queues,
        };
        let worker = Worker {
            instance: instance.to_owned(),
            device,
            memory,
            queues: registers.queues.iter().map(|_| None).collect(),
            paused: false,
            host_waits: false,
            signals: Arc::clone(&signals),
            kicks: Arc::clone(&kicks),
        };
        Ok(Self {
            instance: instance.to_owned(),
            registers,
            paused: false,
            signals,
            kicks,
            worker: Arc::new(Mutex::new(worker)),
        })
    }

    /// The queues' notification eventfds, in queue order. A write to QueueNotify that is not caught
    /// by an ioeventfd signals the same ones.
    pub fn queue_events(&self) -> &Arc<[EventFd]> {
        &self.kicks
    }

    /// The part of the device that runs in the event thread.
    pub fn subscriber(&self) -> QueueSubscriber<M> {
        QueueSubscriber::new(Arc::clone(&self.worker), Arc::clone(&self.kicks))
    }

    pub(super) fn device_type(&self) -> u32 {
        self.signals.enter(&self.worker).device.device_type()
    }

    pub(super) fn status(&self) -> u32 {
        let needs_reset = self.signals.needs_reset.load(Ordering::SeqCst);
        self.registers.status
            | if needs_reset {
                VIRTIO_CONFIG_S_NEEDS_RESET
            } else {
                0
            }
    }

    fn read_register(&self, offset: u32) -> u32 {
        let registers = &self.registers;
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR_ID,
            VIRTIO_MMIO_DEVICE_FEATURES => match registers.device_features_sel {
                0 => registers.offered_features as u32,
                1 => (registers.offered_features >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => registers
                .queue()
                .map_or(0, |queue| u32::from(queue.max_size)),
            VIRTIO_MMIO_QUEUE_READY => registers.queue().map_or(0, |queue| u32::from(queue.ready)),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.signals.interrupt_status.load(Ordering::SeqCst),
            VIRTIO_MMIO_STATUS => self.status(),
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            VIRTIO_MMIO_CONFIG_GENERATION => registers.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        let registers = &mut self.registers;
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    // The counter can only be full when the event thread has been told already.
                    let _ = kick.write(1);
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.signals
                    .interrupt_status
                    .fetch_and(!value, Ordering::SeqCst);
            }
            VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            VIRTIO_MMIO_STATUS => self.advance_status(value),
            VIRTIO_MMIO_QUEUE_READY if value == 0 => self.disable_queue(),
            _ => {
                let Some(queue) = registers.configurable_queue() else {
                    return;
                };
                match offset {
                    // A size that no queue can have is remembered as one that cannot be made ready.
                    VIRTIO_MMIO_QUEUE_NUM => queue.size = u16::try_from(value).unwrap_or(0),
                    VIRTIO_MMIO_QUEUE_READY => queue.ready = queue.build(0, 0, false).is_some(),
                    VIRTIO_MMIO_QUEUE_DESC_LOW => Half::Low.set(&mut queue.desc_table, value),
                    VIRTIO_MMIO_QUEUE_DESC_HIGH => Half::High.set(&mut queue.desc_table, value),
                    VIRTIO_MMIO_QUEUE_AVAIL_LOW => Half::Low.set(&mut queue.avail_ring, value),
                    VIRTIO_MMIO_QUEUE_AVAIL_HIGH => Half::High.set(&mut queue.avail_ring, value),
                    VIRTIO_MMIO_QUEUE_USED_LOW => Half::Low.set(&mut queue.used_ring, value),
                    VIRTIO_MMIO_QUEUE_USED_HIGH => Half::High.set(&mut queue.used_ring, value),
                    _ => {}
                }
            }
        }
    }

    fn accept_features(&mut self, value: u32) {
        let registers = &mut self.registers;
        if !registers.has(VIRTIO_CONFIG_S_DRIVER) || registers.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        match registers.driver_features_sel {
            0 => Half::Low.set(&mut registers.driver_features, value),
            1 => Half::High.set(&mut registers.driver_features, value),
            _ => {}
        }
    }

    /// The driver adds status bits. One that does not follow from those before it is not set, which
    /// the driver finds out by reading back; bits once set are cleared by a reset only.
    fn advance_status(&mut self, value: u32) {
        let mut previous = true;
        for bit in DRIVER_STATUS_BITS {
            if value & bit != 0 && previous && !self.registers.has(bit) {
                match bit {
                    VIRTIO_CONFIG_S_FEATURES_OK if !self.features_acceptable() => {
                        tracing::warn!(
                            instance = self.instance,
                            accepted = format_args!("{:#x}", self.registers.driver_features),
                            offered = format_args!("{:#x}", self.registers.offered_features),
                            "driver accepted features that this device cannot work with"
                        );
                    }
                    VIRTIO_CONFIG_S_DRIVER_OK => {
                        self.registers.status |= bit;
                        self.activate();
                    }
                    _ => self.registers.status |= bit,
                }
            }
            previous = self.registers.has(bit);
        }
        self.registers.status |= value & VIRTIO_CONFIG_S_FAILED;
    }

    fn features_acceptable(&self) -> bool {
        let features = self.registers.driver_features;
        features & !self.registers.offered_features == 0
            && features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    /// The driver is ready: makes the queues that it has enabled.
    fn activate(&mut self) {
        let mut worker = self.signals.enter(&self.worker);
        worker.device.activate(self.registers.driver_features);
        let event_idx = self.registers.event_idx();
        let memory = worker.memory.memory();
        for (index, registers) in self
            .registers
            .queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| queue.ready)
        {
            let queue = registers
                .build(0, 0, event_idx)
                .filter(|queue| queue.is_valid(&*memory));
            if queue.is_none() {
                tracing::warn!(
                    instance = self.instance,
                    queue = index,
                    "driver's queue is not in guest memory"
                );
                worker.require_reset();
            }
            worker.queues[index] = queue;
        }
    }

    fn disable_queue(&mut self) {
        let index = self.registers.queue_sel as usize;
        if let Some(registers) = self.registers.queues.get_mut(index) {
            registers.ready = false;
            self.signals.enter(&self.worker).queues[index] = None;
        }
    }

    fn reset(&mut self) {
        let mut worker = self.signals.enter(&self.worker);
        worker.device.reset();
        worker.queues.fill_with(|| None);
        self.signals.needs_reset.store(false, Ordering::SeqCst);
        self.signals.interrupt_status.store(0, Ordering::SeqCst);
        self.registers.reset();
    }
}

impl<M: GuestAddressSpace + Send> BusDevice for MmioTransport<M> {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        if offset >= CONFIG_OFFSET {
            self.signals
                .enter(&self.worker)
                .device
                .read_config(offset - CONFIG_OFFSET, bytes);
            return;
        }
        match <&mut [u8; 4]>::try_from(&mut *bytes) {
            Ok(word) => *word = self.read_register(offset as u32).to_le_bytes(),
            // Section 4.2.2.2: registers are accessed 32 bits wide.
            Err(_) => bytes.fill(0),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if offset >= CONFIG_OFFSET {
            if self
                .signals
                .enter(&self.worker)
                .device
                .write_config(offset - CONFIG_OFFSET, bytes)
            {
                self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
            }
            return;
        }
        if let Ok(word) = <&[u8; 4]>::try_from(bytes) {
            self.write_register(offset as u32, u32::from_le_bytes(*word));
        }
    }
}

#[cfg(test)]
#[path = "mmio_test.rs"]
mod mmio_test;

//! Pause, save, restore and resume of a virtio-mmio device.

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

use super::mmio::{DRIVER_STATUS_BITS, MmioTransport};
use super::queue::QueueRegisters;
use super::state::{QueueStateV1, VirtioMmioStateV1};
use crate::lifecycle::{Device, LifecycleError, SavedDevice};
use crate::lock::lock;

const KIND: &str = "virtio-mmio";
const VERSION: u16 = 1;

impl<M: GuestAddressSpace + Send> MmioTransport<M> {
    fn rejected(&self, reason: String) -> LifecycleError {
        LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: self.instance.clone(),
            reason,
        }
    }

    fn other_queues(&self) -> LifecycleError {
        self.rejected("the snapshot's device has other queues than this one".to_owned())
    }

    /// Checks what does not need the memory or the device to check.
    fn check_state(&self, state: &VirtioMmioStateV1) -> Result<(), LifecycleError> {
        let device_type = self.device_type();
        if state.device_type != device_type {
            return Err(self.rejected(format!(
                "the snapshot has a virtio device of type {} here, this machine one of type \
                 {device_type}",
                state.device_type
            )));
        }
        let unknown = state.offered_features & !self.registers.offered_features;
        if unknown != 0 {
            return Err(self.rejected(format!(
                "the guest was offered virtio features {unknown:#x} that this device does not \
                 have; give it the options that it had when the snapshot was taken"
            )));
        }
        if state.driver_features & !state.offered_features != 0 && state.status & features_ok() != 0
        {
            return Err(self.rejected(
                "accepted features were never offered; the state is damaged".to_owned(),
            ));
        }
        let driver_bits = DRIVER_STATUS_BITS.iter().fold(0, |all, bit| all | bit);
        if state.status & !(driver_bits | VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) != 0
            || state.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0
        {
            return Err(self.rejected(
                "a register has bits that do not exist; the state is damaged".to_owned(),
            ));
        }
        let found = state.queues.iter().map(|queue| queue.max_size);
        let own = self.registers.queues.iter().map(|queue| queue.max_size);
        if state.queues.len() > own.len() || !found.eq(own.take(state.queues.len())) {
            return Err(self.other_queues());
        }
        Ok(())
    }

    /// Makes the queues as they were, at the ring positions where they were.
    fn rebuild_queues(&mut self, saved: &[QueueStateV1]) -> Result<(), LifecycleError> {
        let event_idx = self.registers.event_idx();
        let mut worker = lock(&self.worker);
        let memory = worker.memory.memory();
        for (index, state) in saved.iter().enumerate().filter(|(_, state)| state.ready) {
            let queue = QueueRegisters::restore(state)
                .build(state.next_avail, state.next_used, event_idx)
                .filter(|queue| queue.is_valid(&*memory))
                .ok_or_else(|| {
                    self.rejected(format!("queue {index} is not in this machine's memory"))
                })?;
            worker.queues[index] = Some(queue);
        }
        Ok(())
    }
}

fn features_ok() -> u32 {
    virtio_bindings::virtio_config::VIRTIO_CONFIG_S_FEATURES_OK
}

impl<M: GuestAddressSpace + Send> Device for MmioTransport<M> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn instance(&self) -> &str {
        &self.instance
    }

    fn pause(&mut self) -> Result<(), LifecycleError> {
        // Requests are served wholly under this lock, so having it means that none is in flight.
        // The flag is seen between two requests: what is left of the ring is for later.
        self.signals.pausing.store(true, Ordering::SeqCst);
        self.signals.enter(&self.worker).paused = true;
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), LifecycleError> {
        if !std::mem::take(&mut self.paused) {
            return Ok(());
        }
        let mut worker = lock(&self.worker);
        worker.paused = false;
        self.signals.pausing.store(false, Ordering::SeqCst);
        worker.kick_resumed();
        if self.signals.interrupt_status.load(Ordering::SeqCst) != 0 {
            self.signals
                .line
                .raise()
                .map_err(LifecycleError::interrupt(KIND, &self.instance))?;
        }
        Ok(())
    }

    fn look_anew(&mut self) -> io::Result<bool> {
        let mut worker = self.signals.enter(&self.worker);
        if !worker.device.look_anew()? {
            return Ok(false);
        }
        let generation = &mut self.registers.config_generation;
        *generation = generation.wrapping_add(1);
        // A driver that is not ready reads the fields later. One of a paused machine gets its
        // interrupt at the resume, and so does that of each copy.
        if self.registers.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            match self.paused {
                true => self.signals.note(VIRTIO_MMIO_INT_CONFIG),
                false => self.signals.raise(VIRTIO_MMIO_INT_CONFIG),
            }
        }
        Ok(true)
    }

    fn save(&self) -> Result<SavedDevice, LifecycleError> {
        if !self.paused {
            return Err(LifecycleError::NotPaused {
                kind: KIND.to_owned(),
                instance: self.instance.clone(),
            });
        }
        let worker = lock(&self.worker);
        let registers = &self.registers;
        let queues = registers.queues.iter().zip(&worker.queues);
        let state = VirtioMmioStateV1 {
            device_type: worker.device.device_type(),
            offered_features: registers.offered_features,
            driver_features: registers.driver_features,
            device_features_sel: registers.device_features_sel,
            driver_features_sel: registers.driver_features_sel,
            queue_sel: registers.queue_sel,
            status: self.status(),
            interrupt_status: self.signals.interrupt_status.load(Ordering::SeqCst),
            config_generation: registers.config_generation,
            queues: queues
                .map(|(registers, queue)| registers.save(queue.as_ref()))
                .collect(),
            device: worker.device.save(&self.instance)?,
        };
        SavedDevice::encode(KIND, VERSION, &self.instance, &state)
    }

    fn restore(&mut self, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: VirtioMmioStateV1 = saved.decode(KIND, VERSION, &self.instance)?;
        self.check_state(&state)?;
        self.pause()?;
        // A device may have fewer queues in an older state. The rest get no registers.
        if !lock(&self.worker).device.take_queues(state.queues.len()) {
            return Err(self.other_queues());
        }
        let needs_reset = state.status & VIRTIO_CONFIG_S_NEEDS_RESET != 0;
        let registers = &mut self.registers;
        registers.offered_features = state.offered_features;
        registers.driver_features = state.driver_features;
        registers.device_features_sel = state.device_features_sel;
        registers.driver_features_sel = state.driver_features_sel;
        registers.queue_sel = state.queue_sel;
        registers.status = state.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        registers.config_generation = state.config_generation;
        registers.queues = state.queues.iter().map(QueueRegisters::restore).collect();
        self.signals
            .interrupt_status
            .store(state.interrupt_status, Ordering::SeqCst);
        self.signals
            .needs_reset
            .store(needs_reset, Ordering::SeqCst);
        {
            let mut worker = lock(&self.worker);
            worker.queues.fill_with(|| None);
            // A device that has run forgets what it negotiated.
            worker.device.reset();
            worker.device.restore(&self.instance, &state.device)?;
            if state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
                worker.device.activate(state.driver_features);
            }
        }
        // A device that waits for its reset may have queues that never were in memory.
        if state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && !needs_reset {
            self.rebuild_queues(&state.queues)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "lifecycle_test.rs"]
mod lifecycle_test;

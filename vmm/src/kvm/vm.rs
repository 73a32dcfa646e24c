//! One KVM virtual machine: memory slots, interrupt and doorbell descriptors.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap,
};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use nvvmm_snapshot::BLOCK_SIZE_BYTES;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::error::vm_op;
use super::{Host, KvmError, Result};
use crate::memory::{GuestMemory, RamSlot};
use crate::sys::{self, address_range::AddressRange};

/// First memory slot for read-only memory: above those of RAM, of which there are two at most.
const FIRST_READ_ONLY_SLOT: u32 = 8;

/// One KVM VM. Dropping it closes the descriptor; KVM frees the VM when the vCPUs' are closed too.
#[derive(Debug)]
pub struct KvmVm {
    host: Arc<Host>,
    fd: VmFd,
    /// Kept while the guest can write it; dropped after `fd`.
    memory: OnceLock<Arc<GuestMemory>>,
    /// The same for read-only memory, by its index.
    read_only: Mutex<BTreeMap<u32, Arc<AddressRange>>>,
}

impl KvmVm {
    /// Makes a VM without memory, vCPUs and interrupt controllers (`arch::create_vm` adds these).
    ///
    /// # Errors
    /// [`KvmError::Vm`].
    pub(crate) fn create(host: Arc<Host>) -> Result<KvmVm> {
        let fd = host
            .kvm()
            .create_vm()
            .map_err(vm_op("creating a virtual machine"))?;
        Ok(KvmVm {
            host,
            fd,
            memory: OnceLock::new(),
            read_only: Mutex::default(),
        })
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The VM's descriptor.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Gives the guest its RAM, one memory slot for each of `slots` in their order, once.
    ///
    /// # Errors
    /// [`KvmError::Vm`].
    pub fn set_memory(
        &self,
        memory: Arc<GuestMemory>,
        slots: &[RamSlot],
        dirty_log: bool,
    ) -> Result<()> {
        if dirty_log {
            // Reading the log and clearing it are two things then: it can be looked at without a
            // cost to the guest.
            let manual = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                args: [u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0, 0, 0],
                ..Default::default()
            };
            self.fd
                .enable_cap(&manual)
                .map_err(vm_op("switching to a dirty log that is cleared by hand"))?;
        }
        let flags = if dirty_log {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let memory = self.memory.get_or_init(|| memory);
        for (slot, ram) in (0..).zip(slots) {
            self.set_memory_slot(memory, slot, ram, flags)
                .map_err(vm_op("giving the guest memory"))?;
        }
        Ok(())
    }

    /// Gives the guest the region of `memory` that `ram` describes, in memory slot `slot`.
    fn set_memory_slot(
        &self,
        memory: &GuestMemory,
        slot: u32,
        ram: &RamSlot,
        flags: u32,
    ) -> io::Result<()> {
        let region = memory
            .find_region(GuestAddress(ram.gpa))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (reservation, offset_bytes) = (region.reservation(), region.offset_bytes());
        let hva = (reservation.start() + offset_bytes) as u64;
        if (region.start_addr().0, region.len(), hva) != (ram.gpa, ram.size_bytes, ram.hva) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the slot is not a region of guest memory",
            ));
        }
        let size_bytes = region.len() as usize;
        sys::kvm::set_memory_slot(
            &self.fd,
            slot,
            ram.gpa,
            reservation,
            offset_bytes,
            size_bytes,
            flags,
        )
    }

    /// Shows the guest `content`, read-only, at `gpa`, as read-only memory `index`.
    ///
    /// # Errors
    /// [`KvmError::Mismatch`] when that index is in use, [`KvmError::Lacks`],
    /// [`KvmError::Vm`].
    pub fn add_read_only_memory(
        &self,
        index: u32,
        gpa: u64,
        content: &Arc<AddressRange>,
    ) -> Result<()> {
        if !self.fd.check_extension(Cap::ReadonlyMem) {
            return Err(KvmError::Lacks("KVM_CAP_READONLY_MEM"));
        }
        let mut shown = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if shown.contains_key(&index) {
            return Err(KvmError::Mismatch(format!(
                "read-only memory {index} is in use"
            )));
        }
        sys::kvm::set_read_only_slot(&self.fd, FIRST_READ_ONLY_SLOT + index, gpa, content)
            .map_err(vm_op("showing the guest read-only memory"))?;
        shown.insert(index, Arc::clone(content));
        Ok(())
    }

    /// Removes read-only memory `index`, if there is any.
    ///
    /// # Errors
    /// [`KvmError::Vm`]; the guest still has the memory.
    pub fn remove_read_only_memory(&self, index: u32) -> Result<()> {
        let mut shown = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if shown.contains_key(&index) {
            sys::kvm::remove_slot(&self.fd, FIRST_READ_ONLY_SLOT + index)
                .map_err(vm_op("removing read-only memory"))?;
            shown.remove(&index);
        }
        Ok(())
    }

    /// Raises interrupt `gsi` (edge) whenever `event` is written.
    ///
    /// # Errors
    /// [`KvmError::Vm`].
    pub fn register_irq(&self, event: &EventFd, gsi: u32) -> Result<()> {
        self.fd
            .register_irqfd(event, gsi)
            .map_err(vm_op("connecting a device's interrupt"))
    }

    /// Signals `event`, without leaving the guest, when it writes the 32-bit `value` at `gpa`.
    ///
    /// # Errors
    /// [`KvmError::Vm`].
    pub fn register_doorbell(&self, event: &EventFd, gpa: u64, value: u32) -> Result<()> {
        let address = IoEventAddress::Mmio(gpa);
        self.fd
            .register_ioevent(event, &address, value)
            .map_err(vm_op("connecting a device's doorbell"))
    }

    /// Frames written since they were last cleared, one bit each, for the slot with index `slot` of
    /// `size_bytes`. Only with the dirty log switched on at [`KvmVm::set_memory`].
    ///
    /// # Errors
    /// [`KvmError::Vm`], for example when the dirty log is off.
    pub fn dirty_log(&self, slot: usize, size_bytes: u64) -> Result<Vec<u64>> {
        let size =
            usize::try_from(size_bytes).map_err(|_| KvmError::Mismatch("slot too large".into()))?;
        self.fd
            .get_dirty_log(slot_number(slot)?, size)
            .map_err(vm_op("reading the dirty log"))
    }

    /// Clears frames in the dirty log: the next write to one of them is noted again. `seen` is what
    /// [`KvmVm::dirty_log`] gave.
    ///
    /// # Errors
    /// [`KvmError::Vm`]; none was cleared.
    pub fn clear_dirty_log(&self, slot: usize, size_bytes: u64, seen: &mut [u64]) -> Result<()> {
        sys::kvm::clear_dirty_log(
            &self.fd,
            slot_number(slot)?,
            size_bytes / BLOCK_SIZE_BYTES,
            seen,
        )
        .map_err(vm_op("clearing the dirty log"))
    }
}

fn slot_number(slot: usize) -> Result<u32> {
    u32::try_from(slot).map_err(|_| KvmError::Mismatch(format!("no memory slot {slot}")))
}

impl AsRawFd for KvmVm {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

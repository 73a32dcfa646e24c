//! Output of `memory`.

use nvvmm::control::{BalloonReport, MemoryStatus};
use serde::Serialize;

/// Memory of a VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Memory {
    /// Name of the VM.
    vm: String,
    /// Memory of the guest.
    memory_bytes: u64,
    /// Memory that has a block of the pool.
    used_bytes: u64,
    /// Of this, memory in blocks of the VM's own.
    own_bytes: u64,
    /// Of this, memory in blocks of snapshots.
    shared_bytes: u64,
    /// Memory that holds nothing: the guest never used it, or gave it back.
    empty_bytes: u64,
    /// The balloon. A VM from a snapshot of an older nvvmm has none.
    balloon: Option<Balloon>,
}

/// Balloon of a VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Balloon {
    /// A driver of the guest works with it.
    has_driver: bool,
    /// The driver reports memory that is free, and that goes back to the pool.
    reports_free: bool,
    /// Size that the balloon should have.
    target_bytes: u64,
    /// Size that it has.
    actual_bytes: u64,
    /// Memory that went back to the pool since the guest's last start, all together.
    released_bytes: u64,
    /// Memory that nothing in the guest uses, as its kernel says.
    guest_free_bytes: Option<u64>,
    /// Memory that programs of the guest can get, as its kernel estimates it.
    guest_available_bytes: Option<u64>,
    /// Memory that the guest's kernel manages.
    guest_total_bytes: Option<u64>,
}

impl Memory {
    /// As the VM tells it.
    pub fn of(memory: &MemoryStatus) -> Self {
        Self {
            vm: memory.name.clone(),
            memory_bytes: memory.memory_bytes,
            used_bytes: memory.used_bytes,
            own_bytes: memory.own_bytes,
            shared_bytes: memory.shared_bytes,
            empty_bytes: memory.empty_bytes,
            balloon: memory.balloon.as_ref().map(Balloon::of),
        }
    }
}

impl Balloon {
    fn of(balloon: &BalloonReport) -> Self {
        Self {
            has_driver: balloon.has_driver,
            reports_free: balloon.reports_free,
            target_bytes: balloon.target_bytes,
            actual_bytes: balloon.actual_bytes,
            released_bytes: balloon.released_bytes,
            guest_free_bytes: balloon.free_bytes,
            guest_available_bytes: balloon.available_bytes,
            guest_total_bytes: balloon.total_bytes,
        }
    }
}

//! The memory of a VM: what its balloon is asked for, and what the guest says.

use std::time::Duration;

use nvvmm_devices::virtio::BalloonHost;

use super::{VmError, running::RunningVm};
use crate::{
    checkpoint::report::RamCounters,
    control::{BalloonReport, MemoryStatus},
    cow::FRAME_SIZE_BYTES,
    error::ErrorKind,
};

/// Wait for the guest's answer. A guest that is paused gives none.
const PATIENCE: Duration = Duration::from_millis(500);

impl RunningVm {
    /// Asks the guest for its memory, and before that for a balloon of `target_bytes`, if that is
    /// given.
    pub fn memory(&self, target_bytes: Option<u64>) -> Result<MemoryStatus, VmError> {
        let balloon = self.machine.balloon();
        if let Some(target_bytes) = target_bytes {
            let balloon = balloon.ok_or_else(no_balloon)?;
            if target_bytes >= self.spec.memory_bytes {
                return Err(VmError::new(
                    ErrorKind::Usage,
                    "the balloon must be smaller than the guest's memory",
                ));
            }
            balloon.set_target(target_bytes);
        }
        let balloon = balloon.map(report);
        let ram = self.with_guest(self.engine.counters());
        let bytes = |frames: u64| frames * FRAME_SIZE_BYTES as u64;
        Ok(MemoryStatus {
            name: self.holder.name().to_owned(),
            memory_bytes: self.spec.memory_bytes,
            used_bytes: bytes(ram.frames_mapped),
            own_bytes: bytes(ram.frames_own),
            shared_bytes: bytes(ram.frames_shared),
            empty_bytes: bytes(ram.frames_empty),
            balloon,
        })
    }

    /// Counts of guest RAM now. The guest is not asked.
    pub fn ram_counters(&self) -> RamCounters {
        let counters = self.engine.counters_now(&*self.machine);
        self.with_guest(counters.unwrap_or_else(|_| self.engine.counters()))
    }

    /// Adds what is known of memory that the guest does not use.
    fn with_guest(&self, ram: RamCounters) -> RamCounters {
        let frames = |bytes: u64| bytes / FRAME_SIZE_BYTES as u64;
        let balloon = self.machine.balloon().map(BalloonHost::status);
        let balloon = balloon.unwrap_or_default();
        let used = ram.frames_mapped.max(ram.frames_own + ram.frames_shared);
        RamCounters {
            frames_empty: frames(self.spec.memory_bytes).saturating_sub(used),
            frames_ballooned: frames(balloon.actual_bytes),
            frames_released: frames(balloon.released_bytes),
            ..ram
        }
    }
}

fn report(balloon: &BalloonHost) -> BalloonReport {
    let status = balloon.ask(PATIENCE);
    let statistics = status.statistics.unwrap_or_default();
    BalloonReport {
        has_driver: status.has_driver,
        reports_free: status.reports_free,
        target_bytes: status.target_bytes,
        actual_bytes: status.actual_bytes,
        released_bytes: status.released_bytes,
        free_bytes: statistics.free_bytes,
        available_bytes: statistics.available_bytes,
        total_bytes: statistics.total_bytes,
    }
}

fn no_balloon() -> VmError {
    VmError::new(
        ErrorKind::Refused,
        "the VM has no balloon: it comes from a snapshot of an older nvvmm",
    )
}

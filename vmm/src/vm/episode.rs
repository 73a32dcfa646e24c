//! Facts of a VM that begin anew when its guest starts: with a boot, a restore, or a rewind.

use std::time::Instant;

use crate::{
    checkpoint::{SnapshotCounters, phases::micros_of, report::RestoreReport},
    control::VmOrigin,
    cow::{CowEngine, FaultThread},
    stats::{Buckets, KernelCalls},
};

/// Facts about a VM since its guest started last.
#[derive(Debug)]
pub struct Episode {
    /// Kernel or snapshot that the guest came from.
    pub origin: VmOrigin,
    /// Counts of snapshots and of what they did.
    pub snapshots: SnapshotCounters,
    /// Time at which the restore began, and its report.
    restore: Option<(Instant, RestoreReport)>,
    /// Calls to the kernel that guest RAM had cost before.
    calls_before: KernelCalls,
    /// Times for which accesses were held before.
    latency_before: Buckets,
}

impl Episode {
    /// The first one of a VM.
    pub fn first(origin: VmOrigin, restore: Option<(Instant, RestoreReport)>) -> Self {
        Self {
            origin,
            snapshots: SnapshotCounters::default(),
            restore,
            calls_before: KernelCalls::default(),
            latency_before: Buckets::default(),
        }
    }

    /// One that begins now.
    pub fn next(
        origin: VmOrigin,
        restore: (Instant, RestoreReport),
        engine: &dyn CowEngine,
        faults: &FaultThread,
    ) -> Self {
        Self {
            calls_before: engine.kernel_calls(),
            latency_before: faults.latency(),
            ..Self::first(origin, Some(restore))
        }
    }

    /// Calls to the kernel that guest RAM has cost.
    pub fn kernel_calls(&self, engine: &dyn CowEngine) -> KernelCalls {
        engine.kernel_calls().since(&self.calls_before)
    }

    /// Times for which accesses were held.
    pub fn fault_latency(&self, faults: &FaultThread) -> Buckets {
        faults.latency().since(&self.latency_before)
    }

    /// The report of the restore, once the guest has run: it was entered at `entry`.
    pub fn restore_report(&self, entry: Option<Instant>) -> Option<RestoreReport> {
        let (started, report) = self.restore.as_ref()?;
        let mut report = report.clone();
        if let Some(entry) = entry {
            report.first_instruction_us = micros_of(entry.saturating_duration_since(*started));
        }
        Some(report)
    }
}

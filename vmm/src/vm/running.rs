//! A VM that is built: what can be asked of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use nvvmm_snapshot::{Holder, SnapshotId};

use super::{
    VmError,
    error::{machine_error, take_error},
};
use crate::{
    checkpoint::{
        self, Taking,
        report::{RestoreReport, SnapshotReport},
    },
    control::{ErrorKind, SnapshotRequest, VmOrigin},
    cow::{CowEngine, FaultThread},
    machine::Machine,
    spec::VmSpec,
};

/// One built VM.
///
/// Fields are dropped in this order, and it matters: no vCPU or device thread may live without the fault thread,
/// nothing that writes guest RAM without the userfaultfd in the engine, and nothing that maps blocks without the
/// holder that leases and pins them.
pub(super) struct RunningVm {
    pub machine: Arc<Machine>,
    pub faults: FaultThread,
    pub engine: Arc<dyn CowEngine>,
    pub holder: Arc<Holder>,
    pub spec: VmSpec,
    pub origin: VmOrigin,
    /// KVM's dirty log is on, for [`RunningVm::audit`].
    pub dirty_log: bool,
    /// When the restore began, and its report.
    pub restore: Mutex<Option<(Instant, RestoreReport)>>,
    /// Held for as long as something is done to the VM: one thing at a time.
    pub operation: Mutex<Operation>,
}

/// What changes with the operations on a VM.
pub(super) struct Operation {
    /// vCPUs and devices run.
    pub running: bool,
    /// The VM is to end: nothing more is done to it.
    pub ending: bool,
    /// The snapshot this VM pins: the one it came from or took last.
    pub base: Option<SnapshotId>,
    /// Names of snapshots taken, oldest first.
    pub taken: Vec<String>,
}

impl Operation {
    pub fn new(base: Option<SnapshotId>) -> Self {
        Self {
            running: false,
            ending: false,
            base,
            taken: Vec::new(),
        }
    }
}

impl RunningVm {
    pub fn operation(&self) -> MutexGuard<'_, Operation> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads; the guest runs unless `paused`.
    pub fn start(&self, paused: bool) -> Result<(), VmError> {
        self.machine.start(!paused).map_err(machine_error)?;
        self.operation().running = !paused;
        Ok(())
    }

    pub fn pause(&self) -> Result<(), VmError> {
        let mut operation = self.operation();
        if operation.running {
            self.machine.pause_vcpus().map_err(machine_error)?;
            if let Err(error) = self.machine.quiesce_devices() {
                self.machine.resume_vcpus().map_err(machine_error)?;
                return Err(machine_error(error));
            }
            operation.running = false;
        }
        Ok(())
    }

    pub fn resume(&self) -> Result<(), VmError> {
        let mut operation = self.operation();
        if !operation.running && !operation.ending {
            self.machine.resume_devices().map_err(machine_error)?;
            self.machine.resume_vcpus().map_err(machine_error)?;
            operation.running = true;
        }
        Ok(())
    }

    /// Takes a snapshot. With `stop` the VM stays at the snapshot's instant.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError> {
        let mut operation = self.operation();
        if operation.ending {
            return Err(VmError::new(ErrorKind::Refused, "the VM is ending"));
        }
        if let Some(durability) = request.durability {
            self.holder.pool().require_durability(durability)?;
        }
        let taken = checkpoint::take(&Taking {
            machine: &self.machine,
            engine: &*self.engine,
            holder: &self.holder,
            spec: &self.spec,
            base: operation.base,
            name: &request.name,
            running: operation.running,
            stop: request.stop,
            dirty_log: self.dirty_log,
        })
        .map_err(take_error)?;
        operation.base = Some(taken.id);
        operation.taken.push(taken.report.name.clone());
        if request.stop {
            operation.running = false;
            operation.ending = true;
        }
        Ok(taken.report)
    }

    /// The report of the restore, once the guest has run.
    pub fn restore_report(&self) -> Option<RestoreReport> {
        let mut restore = self.restore.lock().unwrap_or_else(PoisonError::into_inner);
        let (started, report) = restore.as_mut()?;
        if let Some(entry) = self.machine.first_entry() {
            report.first_instruction_us = entry.saturating_duration_since(*started).as_secs_f64() * 1e6;
        }
        Some(report.clone())
    }
}

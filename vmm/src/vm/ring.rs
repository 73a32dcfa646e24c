//! Checkpoints of a running VM, one after the other.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use nvvmm_snapshot::SnapshotId;

use super::{VmError, error::machine_error, running::RunningVm, supervisor::Supervisor};
use crate::{
    control::RingRequest,
    error::ErrorKind,
    ring::{Attempt, Ring, RingSettings, RingStatus},
    sys::peer::Caller,
};

impl RunningVm {
    /// One checkpoint of the ring, whose commit removes others. A guest that stands still, or one
    /// whose processes are being captured or restarted, or run on memory shown in a window, is
    /// let be.
    pub fn checkpoint(self: &Arc<Self>, name: &str, replaced: &[SnapshotId]) -> Attempt {
        let (name, replaced) = (name.to_owned(), replaced.to_vec());
        let taken = self.unless_no_space(&Caller::default(), move |vm, pending| {
            let mut operation = vm.operation();
            vm.machine.end_released_windows().map_err(machine_error)?;
            if operation.quiesced
                || operation.process.is_under_way()
                || vm.machine.shows_windows()
                || vm.seen().ending
            {
                return Ok(None);
            }
            vm.take_whole(&mut operation, &name, &replaced, false, pending)
                .map(Some)
        });
        match taken {
            Ok(Some(taken)) => Attempt::Taken(taken.id, Box::new(taken.report)),
            Ok(None) => Attempt::NotNow,
            // Another process has the pool's lock for too long: the next one may find it free.
            Err(_) if self.holder.pool().lock_wait().is_some() => Attempt::NotNow,
            Err(error) => Attempt::Failed(error),
        }
    }
}

impl Supervisor {
    /// Begins a ring, in place of the one before.
    pub fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        let vm = self.running()?;
        let pool = vm.holder.pool();
        pool.require_name()?;
        if let Some(durability) = request.durability {
            pool.require_durability(durability)?;
        }
        if request.keep == 0 {
            return Err(VmError::new(
                ErrorKind::Usage,
                "a ring keeps at least one checkpoint",
            ));
        }
        let settings = RingSettings {
            every: Duration::from_micros(request.every_us),
            keep: request.keep,
        };
        // To end one may take as long as a checkpoint: nobody waits for the lock meanwhile.
        let before = self.ring().take();
        drop(before);
        let me = Weak::clone(self.me());
        let take = move |name: &str, replaced: &[SnapshotId]| match me.upgrade() {
            Some(supervisor) => supervisor.checkpoint(name, replaced),
            None => Attempt::NotNow,
        };
        let begun = Ring::start(pool, self.name(), settings, Box::new(take))?;
        Ok(self.ring().insert(begun).status())
    }

    /// Ends the ring; what it did, with its checkpoints, stays.
    pub fn stop_ring(&self) -> Result<RingStatus, VmError> {
        let Some(mut ring) = self.ring().take() else {
            return Err(VmError::new(
                ErrorKind::NotFound,
                format!("VM '{}' has no ring of checkpoints", self.name()),
            )
            .with_remedy(format!("'nvvmm checkpoint {}' begins one", self.name())));
        };
        ring.stop();
        Ok(self.ring().insert(ring).status())
    }

    fn checkpoint(&self, name: &str, replaced: &[SnapshotId]) -> Attempt {
        let Some(vm) = self.vm() else {
            return Attempt::NotNow;
        };
        match vm.checkpoint(name, replaced) {
            // It failed because the VM was being stopped: it goes on with the next one.
            Attempt::Failed(_) if self.is_changing() => Attempt::NotNow,
            other => other,
        }
    }
}

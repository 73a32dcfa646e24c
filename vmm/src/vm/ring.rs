//! Checkpoints of a running VM, one after the other.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use nvvmm_snapshot::SnapshotId;

use super::{VmError, error::machine_error, running::RunningVm, supervisor::Supervisor};
use crate::{
    control::{RingRequest, VmOrigin},
    error::ErrorKind,
    ring::{Attempt, Member, OwnCheckpoints, Ring, RingSettings, RingStatus},
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
        let members = Member::all(pool, self.name())?;
        let own = self.own(&vm);
        let others = own.others(&members);
        if !others.is_empty() && !request.replace {
            return Err(of_an_earlier_vm(
                &others,
                self.name(),
                "a ring removes",
                &format!("'nvvmm checkpoint {} --replace' removes them", self.name()),
            ));
        }
        let settings = RingSettings {
            every: Duration::from_micros(request.every_us),
            keep: request.keep,
            replaced: others.len(),
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
        let first = members.iter().map(|member| member.number + 1).max();
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = match own {
            OwnCheckpoints::None => OwnCheckpoints::From(first.unwrap_or(0)),
            own => own,
        };
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

    /// The checkpoints of this VM's name that are its own.
    fn own(&self, vm: &RunningVm) -> OwnCheckpoints {
        let own = *self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // The VM as it was started, and as it was rewound last.
        let episode = vm.episode();
        let origins = [self.origin(), &episode.origin].map(|origin| match origin {
            VmOrigin::Snapshot { name } => Some(name.as_str()),
            VmOrigin::Boot { .. } => None,
        });
        let mut known = [own]
            .into_iter()
            .chain(origins.map(|origin| OwnCheckpoints::of_origin(origin, self.name())));
        known
            .find(|own| *own != OwnCheckpoints::None)
            .unwrap_or_default()
    }

    /// Those of `members` that a rewind may choose from.
    ///
    /// # Errors
    /// All are an earlier VM's.
    pub fn own_checkpoints(
        &self,
        vm: &RunningVm,
        mut members: Vec<Member>,
    ) -> Result<Vec<Member>, VmError> {
        let own = self.own(vm);
        let others = own.others(&members);
        if !others.is_empty() && others.len() == members.len() {
            let newest = others.last().map_or("", |member| &member.name);
            return Err(of_an_earlier_vm(
                &others,
                self.name(),
                "a rewind without --to does not go back to",
                &format!(
                    "'nvvmm rewind {} --to {newest}' takes this VM there",
                    self.name()
                ),
            ));
        }
        members.retain(|member| own.has(member.number));
        Ok(members)
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

/// The error for checkpoints that an earlier VM of this name has left.
fn of_an_earlier_vm(others: &[Member], vm: &str, what: &str, way: &str) -> VmError {
    let [first, last] = [others.first(), others.last()]
        .map(|member| member.map_or("", |member| member.name.as_str()));
    let which = match others.len() {
        1 => format!("the checkpoint {last} is"),
        count => format!("{count} checkpoints ({first} to {last}) are"),
    };
    let them = if others.len() == 1 { "it" } else { "them" };
    VmError::new(
        ErrorKind::Refused,
        format!("{which} of an earlier VM '{vm}', not of this one: {what} {them}"),
    )
    .with_remedy(format!(
        "end this VM; 'nvvmm restore {last} --name {vm}' then goes on from the newest; or {way}"
    ))
}

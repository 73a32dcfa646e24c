//! Steps as they are performed on a pool.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::expected::state;
use super::model::{Model, Outcome, Vm};
use super::steps::{CHUNK_BYTES, Step};
use crate::{Error, GrowOptions, Pool};

/// A refusal is a result; other errors are not.
fn or_refused(result: crate::Result<()>) -> Result<Outcome, String> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(
            Error::PoolFull { .. }
            | Error::TooManyPins { .. }
            | Error::Busy { .. }
            | Error::NameTaken { .. }
            | Error::NotFound { .. }
            | Error::NotPinned { .. }
            // Another process has made the pool larger meanwhile.
            | Error::InvalidSize { .. },
        ) => Ok(Outcome::Refused),
        Err(error) => Err(error.to_string()),
    }
}

impl Model {
    /// The process that makes a step.
    pub(super) fn process_of(&self, step: &Step) -> Option<usize> {
        match step {
            Step::Boot { process, .. }
            | Step::Restore { process, .. }
            | Step::Remove { process, .. }
            | Step::Grow { process, .. }
            | Step::Scrub { process }
            | Step::Clean { process } => Some(*process),
            Step::Write { vm, .. }
            | Step::Free { vm, .. }
            | Step::Snapshot { vm, .. }
            | Step::Capture { vm, .. }
            | Step::Adopt { vm, .. }
            | Step::UnpinOthers { vm }
            | Step::Pin { vm, .. }
            | Step::Unpin { vm, .. }
            | Step::Consume { vm }
            | Step::Stop { vm } => self.vms[*vm].as_ref().map(|vm| vm.process),
            Step::Close { .. } | Step::Open { .. } | Step::Kill { .. } => None,
        }
    }

    /// Makes a step.
    pub(super) fn perform(&mut self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::Boot { process, chunks } => {
                or_refused(self.start(*process, chunks * CHUNK_BYTES, None))
            }
            Step::Restore { process, name } => or_refused(self.start(*process, 0, Some(name))),
            Step::Write {
                vm,
                place,
                frames,
                from,
            } => {
                let first_tag = self.take_tags(512);
                self.with_vm(*vm, |vm| vm.write(*place, *frames, *from, first_tag))
            }
            Step::Free { vm, chunk } => self.with_vm(*vm, |vm| vm.free(*chunk)),
            Step::Snapshot {
                vm,
                name,
                state_bytes,
                reserve,
                replaced,
            } => self.with_vm(*vm, |vm| {
                vm.snapshot(
                    name,
                    &state(name, *state_bytes),
                    *reserve,
                    replaced.as_deref(),
                )
            }),
            Step::Capture {
                vm,
                name,
                first,
                pages,
                reserve,
            } => self.with_vm(*vm, |vm| vm.capture(name, (*first, *pages), *reserve)),
            Step::Adopt { vm, name, chunk } => match self.saved.get(name).map(Arc::clone) {
                Some(image) => self.with_vm(*vm, |vm| vm.adopt(name, &image, *chunk)),
                None => Ok(Outcome::Refused),
            },
            Step::UnpinOthers { vm } => self.with_vm(*vm, Vm::unpin_others),
            Step::Pin { vm, name } => self.with_vm(*vm, |vm| vm.pin(name)),
            Step::Unpin { vm, pin } => self.with_vm(*vm, |vm| vm.unpin(*pin)),
            Step::Consume { vm } => self.with_vm(*vm, Vm::consume),
            Step::Remove { process, name } => match &self.processes[*process] {
                Some(process) => or_refused(process.pool.remove(name).map(|_| ())),
                None => Ok(Outcome::Refused),
            },
            Step::Grow { process, chunks } => match &self.processes[*process] {
                Some(process) => or_refused(grow(&process.pool, *chunks)),
                None => Ok(Outcome::Refused),
            },
            Step::Scrub { process } => match &self.processes[*process] {
                Some(process) => scrub(&process.pool).map(|()| Outcome::Done),
                None => Ok(Outcome::Refused),
            },
            Step::Clean { process } => match &self.processes[*process] {
                Some(process) => or_refused(process.pool.clean_all()),
                None => Ok(Outcome::Refused),
            },
            Step::Stop { vm } => {
                self.vms[*vm] = None;
                Ok(Outcome::Done)
            }
            Step::Close { process } => {
                self.close(*process);
                Ok(Outcome::Done)
            }
            Step::Open { process } => or_refused(self.open(*process)),
            Step::Kill { process } => {
                self.bury(*process);
                Ok(Outcome::Done)
            }
        }
    }

    fn with_vm(
        &mut self,
        vm: usize,
        act: impl FnOnce(&mut Vm) -> crate::Result<()>,
    ) -> Result<Outcome, String> {
        self.vms[vm]
            .as_mut()
            .map_or(Ok(Outcome::Refused), |vm| or_refused(act(vm)))
    }

    fn start(
        &mut self,
        process: usize,
        memory_bytes: u64,
        name: Option<&str>,
    ) -> crate::Result<()> {
        let free = self.vms.iter().position(Option::is_none);
        let (Some(free), Some(place)) = (free, &self.processes[process]) else {
            return Ok(());
        };
        let holder = place.pool.hold("vm")?;
        let mut vm = Vm::new(holder, process, memory_bytes);
        if let Some(name) = name {
            vm.restore(name)?;
            if let Some(saved) = self.saved.get(name) {
                vm.frames.clone_from(&saved.frames);
            }
        }
        self.vms[free] = Some(vm);
        Ok(())
    }
}

/// Makes digests and compares those that there are: nothing may be found.
pub(super) fn scrub(pool: &Arc<Pool>) -> Result<(), String> {
    let report = pool.scrub(&mut |_| ControlFlow::Continue(()));
    let report = report.map_err(|error| error.to_string())?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(format!("scrub: {report:?}"))
    }
}

fn grow(pool: &Pool, chunks: u64) -> crate::Result<()> {
    let options = GrowOptions {
        size_bytes: pool.size_bytes() + chunks * CHUNK_BYTES,
        overcommit: false,
    };
    pool.grow(&options).map(|_| ())
}

//! Steps as they are performed on a pool.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::disks::{DISK_BYTES, Drive, Request, seen};
use super::expected::state;
use super::model::{Model, Outcome, Vm};
use super::steps::{CHUNK_BYTES, Step};
use crate::{Error, GrowOptions, Pool, ReceiveOptions, SendOptions};

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
            | Error::NoDisk { .. }
            | Error::DiskInUse { .. }
            | Error::DiskNameTaken { .. }
            | Error::NoDisksYet
            | Error::Incomplete { .. }
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
            | Step::Receive { process, .. }
            | Step::Scrub { process }
            | Step::Clean { process }
            | Step::CreateDisk { process, .. }
            | Step::RemoveDisk { process, .. }
            | Step::CopyDisk { process, .. } => Some(*process),
            Step::Write { vm, .. }
            | Step::Free { vm, .. }
            | Step::Snapshot { vm, .. }
            | Step::Capture { vm, .. }
            | Step::Adopt { vm, .. }
            | Step::UnpinOthers { vm }
            | Step::Pin { vm, .. }
            | Step::Unpin { vm, .. }
            | Step::Consume { vm }
            | Step::AttachDisk { vm, .. }
            | Step::DetachDisk { vm, .. }
            | Step::DiskRequest { vm, .. }
            | Step::RewindDisks { vm, .. }
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
            Step::Remove { .. }
            | Step::Grow { .. }
            | Step::Receive { .. }
            | Step::Scrub { .. }
            | Step::Clean { .. } => self.perform_on_pool(step),
            Step::CreateDisk { .. }
            | Step::RemoveDisk { .. }
            | Step::CopyDisk { .. }
            | Step::AttachDisk { .. }
            | Step::DetachDisk { .. }
            | Step::DiskRequest { .. }
            | Step::RewindDisks { .. } => self.perform_on_disk(step),
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

    /// Does something to the pool that a process has open.
    fn on_pool(
        &self,
        process: usize,
        act: impl FnOnce(&Arc<Pool>) -> Result<Outcome, String>,
    ) -> Result<Outcome, String> {
        match &self.processes[process] {
            Some(process) => act(&process.pool),
            None => Ok(Outcome::Refused),
        }
    }

    fn perform_on_pool(&self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::Remove { process, name } => {
                self.on_pool(*process, |pool| or_refused(pool.remove(name).map(|_| ())))
            }
            Step::Grow { process, chunks } => {
                self.on_pool(*process, |pool| or_refused(grow(pool, *chunks)))
            }
            Step::Receive {
                process,
                from,
                name,
            } => self.on_pool(*process, |pool| or_refused(receive(pool, from, name))),
            Step::Scrub { process } => {
                self.on_pool(*process, |pool| scrub(pool).map(|()| Outcome::Done))
            }
            Step::Clean { process } => self.on_pool(*process, |pool| or_refused(pool.clean_all())),
            _ => Ok(Outcome::Refused),
        }
    }

    fn perform_on_disk(&mut self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::CreateDisk { process, name } => match &self.processes[*process] {
                Some(process) => or_refused(process.pool.create_disk(name, DISK_BYTES).map(drop)),
                None => Ok(Outcome::Refused),
            },
            Step::RemoveDisk { process, name } => match &self.processes[*process] {
                Some(process) => or_refused(process.pool.remove_disk(name)),
                None => Ok(Outcome::Refused),
            },
            Step::CopyDisk {
                process,
                name,
                from,
            } => match &self.processes[*process] {
                Some(process) => {
                    let pool = &process.pool;
                    let copied = match from {
                        None => pool.copy_disk("d0", name),
                        Some(from) => pool.copy_disk_of(from, "d0", name),
                    };
                    or_refused(copied.map(drop))
                }
                None => Ok(Outcome::Refused),
            },
            Step::AttachDisk { vm, name } => self.with_vm(*vm, |vm| {
                vm.drives.push(Drive::attach(&vm.holder, name)?);
                Ok(())
            }),
            Step::DetachDisk { vm, drive } => self.with_vm(*vm, |vm| {
                if *drive < vm.drives.len() {
                    vm.drives.remove(*drive);
                }
                Ok(())
            }),
            Step::DiskRequest { vm, drive, request } => self.request(*vm, *drive, *request),
            Step::RewindDisks { vm, name } => self.with_vm(*vm, |vm| vm.rewind_disks(name)),
            _ => Ok(Outcome::Refused),
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

    /// Makes a request to a disk. Of one that is refused some parts may be done.
    fn request(&mut self, vm: usize, drive: usize, request: Request) -> Result<Outcome, String> {
        let tag = self.take_tags(1);
        let drive = self.vms[vm].as_ref().and_then(|vm| vm.drives.get(drive));
        let Some(drive) = drive else {
            return Ok(Outcome::Refused);
        };
        let outcome = or_refused(request.make(&drive.head, tag))?;
        if outcome == Outcome::Refused {
            let now = seen(&drive.head).map_err(|error| error.to_string())?;
            if let Some(disk) = self.disks.get_mut(&drive.name) {
                for (cell, _) in request.writes(tag) {
                    disk.write(cell, now.get(&cell).copied().unwrap_or(0));
                }
            }
        }
        Ok(outcome)
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

/// Sends a snapshot, and receives it under another name.
fn receive(pool: &Arc<Pool>, from: &str, name: &str) -> crate::Result<()> {
    let mut stream = Vec::new();
    let sent = SendOptions {
        since: None,
        lineage: false,
        level: 1,
        spec: "{}".to_owned(),
    };
    pool.send(from, &sent, &mut stream, &mut |_| ControlFlow::Continue(()))?;
    let received = ReceiveOptions {
        name: Some(name),
        ..ReceiveOptions::default()
    };
    let mut stream = stream.as_slice();
    pool.receive(&received, &mut stream, &mut |_| ControlFlow::Continue(()))
        .map(drop)
}

fn grow(pool: &Pool, chunks: u64) -> crate::Result<()> {
    let options = GrowOptions {
        size_bytes: pool.size_bytes() + chunks * CHUNK_BYTES,
        overcommit: false,
    };
    pool.grow(&options).map(|_| ())
}

//! Captures and restarts of the guest's processes.
//!
//! The agent is talked to without anything of the VM being held, as it may be slow or silent: the
//! VM can be paused, be snapshotted and end meanwhile. Each step is an operation on the VM for
//! itself. A snapshot of the whole VM in between stops what is under way, as blocks that are given
//! away are in nothing yet that the snapshot could be based on.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, MutexGuard, Weak},
    time::Instant,
};

use nvvmm_protocol::{Capture, FailedBecause, FrameRun, Frames, Restart, TerminalSize};
use nvvmm_snapshot::{FrameMap, Holder, SnapshotEntry, SnapshotKind};

use super::{
    VmError,
    error::{cow_error, machine_error},
    running::{Operation, RunningVm},
};
use crate::{
    checkpoint::phases::micros,
    control::{CaptureRequest, CapturedState, RestartRequest},
    cow::{CowEngine, CowError, FRAME_SIZE_BYTES, Lack},
    error::ErrorKind,
    machine::ShownWindow,
    process::{
        self, AgentError, CaptureReport, CaptureSteps, Capturing, Kept, PlaceSteps, Placing,
        ProcessError, RestartReport, SavedProcess, conversation,
    },
    window::WindowMemory,
};

/// Work on a process of the guest: one thing at a time.
#[derive(Debug, Default)]
pub(super) struct ProcessWork {
    /// Counts works, so that a step of one that was stopped does not meet the next.
    begun: u64,
    work: Option<Work>,
}

#[derive(Debug)]
enum Work {
    Capture(Capturing),
    Restart(Placing),
}

impl ProcessWork {
    fn begin(&mut self, work: Work) -> u64 {
        self.begun += 1;
        self.work = Some(work);
        self.begun
    }

    fn get(&mut self, ticket: u64) -> Result<&mut Work, ProcessError> {
        self.work
            .as_mut()
            .filter(|_| self.begun == ticket)
            .ok_or(ProcessError::Overtaken)
    }

    /// A process is being captured or restarted.
    pub fn is_under_way(&self) -> bool {
        self.work.is_some()
    }

    /// Ends it, so that nothing of a capture is left, and no more comes of a restart.
    pub fn stop(&mut self, engine: &dyn CowEngine, holder: &Holder) {
        if let Some(Work::Capture(capturing)) = self.work.take() {
            capturing.roll_back(engine, holder);
        }
    }
}

/// Captures a process and commits its image.
pub(super) fn capture(
    vm: Weak<RunningVm>,
    request: &CaptureRequest,
    agent: &UnixStream,
) -> Result<CaptureReport, VmError> {
    let began = Instant::now();
    let ticket = with_vm(&vm, |vm| vm.begin_capture(request))?;
    let mut steps = Steps {
        vm: &vm,
        ticket,
        name: &request.name,
        kept: None,
    };
    let asked = Capture {
        pid: request.pid,
        tree: request.tree,
        external_stdio: true,
        afterwards: match request.afterwards {
            CapturedState::GoOn => nvvmm_protocol::AfterCapture::Thaw,
            CapturedState::Stop => nvvmm_protocol::AfterCapture::Stop,
            CapturedState::Kill => nvvmm_protocol::AfterCapture::Kill,
        },
    };
    let captured = conversation::capture(agent, asked, SavedProcess::IMAGE_BYTES_MAX, &mut steps);
    let kept = steps.kept;
    end(&vm, ticket);
    match (captured, kept) {
        (Ok(captured), Some(kept)) => Ok(CaptureReport {
            name: request.name.clone(),
            pid: request.pid,
            processes: captured.processes,
            threads: captured.threads,
            frozen_us: captured.frozen_us as f64,
            total_us: micros(began),
            rounds: captured.rounds,
            pages: kept.pages,
            frames_given: kept.frames_given,
            frames_copied: kept.frames_copied,
            state_bytes: kept.state_bytes,
            metadata_blocks: kept.metadata_blocks,
        }),
        (Err(error), Some(_)) => Err(VmError::new(
            ErrorKind::Failed,
            format!("image {} was made, but then: {error}", request.name),
        )
        .with_remedy("check the process in the guest; 'nvvmm rm' removes the image")),
        (Err(error), None) => Err(agent_error(error, REFUSED_CAPTURE)),
        (Ok(_), None) => Err(agent_error(AgentError::OutOfTurn, REFUSED_CAPTURE)),
    }
}

/// A restart that has begun.
struct Begun {
    ticket: u64,
    /// All that is not pages.
    image: Vec<u8>,
    /// Pages of the image.
    pages: u64,
    /// The window that shows them.
    window: Option<ShownWindow>,
}

/// Mappings that one window may take of this process: with four of them an eighth of what the
/// kernel allows by default.
const WINDOW_PIECES_MAX: usize = 2048;

/// Reason why there was no restart.
#[derive(Debug)]
pub(super) enum RestartFailed {
    /// Nothing has happened but in the guest.
    Refused(VmError),
    /// The VM cannot go on.
    VmIsLost(VmError),
}

impl From<VmError> for RestartFailed {
    fn from(error: VmError) -> Self {
        Self::Refused(error)
    }
}

/// Restarts a process from its image.
pub(super) fn restart(
    vm: Weak<RunningVm>,
    name: &str,
    request: &RestartRequest,
    agent: &UnixStream,
) -> Result<RestartReport, RestartFailed> {
    let began = Instant::now();
    let Begun {
        ticket,
        image,
        pages,
        window,
    } = with_vm(&vm, |vm| vm.begin_restart(request))?;
    let mut steps = Steps {
        vm: &vm,
        ticket,
        name: &request.name,
        kept: None,
    };
    let asked = Restart {
        bytes: image.len() as u64,
        attach: request.attach,
        terminal: request
            .terminal
            .map(|(rows, columns)| TerminalSize { rows, columns }),
        window: window.map(|window| window.device),
    };
    let restarted = conversation::restart(agent, asked, &image, &mut steps);
    let placed = end(&vm, ticket);
    if let (Err(_), Some(window), Some(vm)) = (&restarted, window, vm.upgrade()) {
        vm.machine
            .withdraw_window(window.index)
            .map_err(machine_error)?;
    }
    match restarted {
        Ok(restarted) => {
            let (pages_adopted, pages_copied) = match (window, placed) {
                (Some(_), _) => (0, restarted.pages.min(pages)),
                (None, placed) => placed.map_or((0, 0), |placed| (placed.adopted, placed.copied)),
            };
            let pages_shown = window.map_or(0, |_| pages - pages_copied);
            Ok(RestartReport {
                name: request.name.clone(),
                vm: name.to_owned(),
                pid: restarted.pid,
                processes: restarted.processes,
                threads: restarted.threads,
                elapsed_us: restarted.elapsed_us as f64,
                populate_us: restarted.populate_us as f64,
                place_us: restarted.place_us as f64,
                pages_reserved: restarted.pages_reserved,
                total_us: micros(began),
                pages_adopted,
                pages_copied,
                pages_shown,
            })
        }
        Err(AgentError::Ours(ProcessError::Cow(error)))
            if !matches!(
                error,
                CowError::NoSpace(Lack::Blocks | Lack::Medium) | CowError::Locked(_)
            ) =>
        {
            Err(RestartFailed::VmIsLost(cow_error(error)))
        }
        Err(error) => Err(agent_error(error, REFUSED_RESTART).into()),
    }
}

fn with_vm<T>(
    vm: &Weak<RunningVm>,
    work: impl FnOnce(&RunningVm) -> Result<T, VmError>,
) -> Result<T, VmError> {
    match vm.upgrade() {
        Some(vm) => work(&vm),
        None => Err(process_error(ProcessError::Overtaken)),
    }
}

/// Ends a work, unless something else has; of a restart, with what was placed.
fn end(vm: &Weak<RunningVm>, ticket: u64) -> Option<Placing> {
    let vm = vm.upgrade()?;
    let mut operation = vm.operation();
    if operation.process.begun != ticket {
        return None;
    }
    match operation.process.work.take()? {
        Work::Capture(capturing) => {
            capturing.roll_back(&*vm.engine, &vm.holder);
            None
        }
        Work::Restart(placing) => Some(placing),
    }
}

impl RunningVm {
    /// The guest does not use these frames for now; what there is to gain from that is not worth an
    /// error.
    pub(super) fn set_idle(&self, frames: &[Frames]) {
        if let Err(error) = process::set_idle(frames, &*self.engine) {
            tracing::info!(%error, "frames that the guest does not use");
        }
    }

    /// An operation on a guest whose processes can do something.
    fn operation_on_process(&self) -> Result<MutexGuard<'_, Operation>, VmError> {
        let mut operation = self.operation_unless_stuck()?;
        self.settle_arrival(&mut operation)?;
        let refuse = |why: &str, remedy: &str| {
            Err(VmError::new(ErrorKind::Refused, why).with_remedy(remedy))
        };
        if self.seen().ending {
            return refuse("the VM is ending", "restore it, or use another VM");
        }
        if operation.quiesced {
            return refuse(
                "the VM is paused, and so is the agent in its guest",
                "'nvvmm resume' it",
            );
        }
        if operation.process.work.is_some() {
            return refuse(
                "a process of this VM is being captured or restarted",
                "try again when that is done",
            );
        }
        Ok(operation)
    }

    fn begin_capture(&self, request: &CaptureRequest) -> Result<u64, VmError> {
        let mut operation = self.operation_on_process()?;
        let pool = self.holder.pool();
        pool.require_name()?;
        if let Some(durability) = request.durability {
            pool.require_durability(durability)?;
        }
        // Before anything is frozen; the commit looks again.
        if pool.find(&request.name).is_ok() {
            return Err(nvvmm_snapshot::Error::NameTaken {
                name: request.name.clone(),
            }
            .into());
        }
        let shown = operation.shown.iter();
        let shown = shown.filter(|(index, _)| self.machine.shows_window(**index));
        let capturing = Capturing::new(shown.map(|(_, blocks)| Arc::clone(blocks)).collect());
        Ok(operation.process.begin(Work::Capture(capturing)))
    }

    fn begin_restart(&self, request: &RestartRequest) -> Result<Begun, VmError> {
        let mut operation = self.operation_on_process()?;
        let entry = self.holder.pool().find(&request.name)?;
        check_image(&entry)?;
        let pinned = self.holder.pin(&entry.name);
        let (entry, frames) = pinned.map_err(|error| process_error(error.into()))?;
        let image = SavedProcess::decode(&self.holder.pool().read_state(entry.id)?)?.image;
        if entry.foreign && !request.allow_root {
            check_privileges(&entry, &image)?;
        }
        let pages = entry.memory_bytes / FRAME_SIZE_BYTES as u64;
        let window = match request.window {
            true => Some(self.show(&mut operation, &frames, pages)?),
            false => None,
        };
        let placing = Placing::new(frames, pages);
        Ok(Begun {
            ticket: operation.process.begin(Work::Restart(placing)),
            image,
            pages,
            window,
        })
    }

    /// Shows the guest an image, which stays pinned until the next snapshot of the VM: that there
    /// is none while a window shows anything keeps its blocks.
    fn show(
        &self,
        operation: &mut Operation,
        frames: &FrameMap,
        pages: u64,
    ) -> Result<ShownWindow, VmError> {
        let content = WindowMemory::of_image(self.holder.pool(), frames, pages, WINDOW_PIECES_MAX);
        let content = content.map_err(|error| {
            VmError::new(ErrorKind::Refused, error.to_string())
                .with_remedy("restore it without --window")
        })?;
        let window = self
            .machine
            .show_window(content.reservation())
            .map_err(machine_error)?;
        let blocks = content.shown_at(window.gpa);
        operation.shown.insert(window.index, Arc::new(blocks));
        Ok(window)
    }
}

/// Refuses a snapshot that is not an image of processes.
///
/// # Errors
/// [`ErrorKind::Refused`].
pub fn check_image(entry: &SnapshotEntry) -> Result<(), VmError> {
    match entry.kind {
        SnapshotKind::Process => Ok(()),
        SnapshotKind::Vm => Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "'{}' is a {}, not a snapshot of a process",
                entry.name, entry.kind
            ),
        )
        .with_remedy("restore it without --into")),
    }
}

/// Refuses an image from elsewhere whose processes would be root in the guest.
fn check_privileges(entry: &SnapshotEntry, image: &[u8]) -> Result<(), VmError> {
    let why = match process::first_privilege(image) {
        Ok(None) => return Ok(()),
        Ok(Some(privilege)) => privilege,
        Err(error) => format!("who its processes run as cannot be read: {error}"),
    };
    let name = &entry.name;
    Err(VmError::new(
        ErrorKind::Refused,
        format!("image '{name}' came from elsewhere, and {why}"),
    )
    .with_remedy(format!(
        "add --allow-root, or 'nvvmm adopt {name}', if you trust its sender"
    )))
}

/// Steps of the VM that the agent asks for.
struct Steps<'a> {
    vm: &'a Weak<RunningVm>,
    ticket: u64,
    name: &'a str,
    kept: Option<Kept>,
}

impl Steps<'_> {
    fn step<T>(
        &self,
        work: impl FnOnce(&RunningVm, &mut Work) -> Result<T, ProcessError>,
    ) -> Result<T, ProcessError> {
        let vm = self.vm.upgrade().ok_or(ProcessError::Overtaken)?;
        // The guest that waits for space waits for no process.
        let mut operation = vm
            .operation_unless_stuck()
            .map_err(|_| CowError::NoSpace(vm.faults.starved_of().unwrap_or(Lack::Blocks)))?;
        if vm.seen().ending {
            return Err(ProcessError::Overtaken);
        }
        work(&vm, operation.process.get(self.ticket)?)
    }
}

impl CaptureSteps for Steps<'_> {
    fn give_ahead(&mut self, frames: &[Frames]) -> Result<(), ProcessError> {
        self.step(|vm, work| match work {
            Work::Capture(capturing) => capturing.give_ahead(frames, &*vm.engine),
            Work::Restart(_) => Err(ProcessError::Overtaken),
        })
    }

    fn take(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.step(|vm, work| match work {
            Work::Capture(capturing) => capturing.take(runs, &*vm.engine, &vm.holder),
            Work::Restart(_) => Err(ProcessError::Overtaken),
        })
    }

    fn commit(&mut self, image: Vec<u8>, pages: u64) -> Result<(), ProcessError> {
        let process = SavedProcess { image };
        let kept = self.step(|vm, work| match work {
            Work::Capture(capturing) => {
                let kept = capturing.commit(self.name, pages, &process, &*vm.engine, &vm.holder)?;
                vm.digests.make_later(kept.id);
                vm.seen().taken.push(self.name.to_owned());
                Ok(kept)
            }
            Work::Restart(_) => Err(ProcessError::Overtaken),
        })?;
        self.kept = Some(kept);
        Ok(())
    }
}

impl PlaceSteps for Steps<'_> {
    fn place(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.step(|vm, work| match work {
            Work::Restart(placing) => placing.place(runs, &*vm.engine, vm.holder.pool()),
            Work::Capture(_) => Err(ProcessError::Overtaken),
        })
    }
}

/// Remedies for the reasons, one in each line, for which the agent refuses a capture or a restart.
const REFUSED_CAPTURE: &str =
    "end or close what is named, then capture it again (docs/using/processes.md has what is kept)";
const REFUSED_RESTART: &str =
    "put right what is named, or restart it in another VM, such as a copy of its own";

pub(super) fn agent_error(error: AgentError, if_refused: &str) -> VmError {
    match error {
        AgentError::Ours(error) => process_error(error),
        AgentError::Said { because, .. } => {
            let message = error.to_string();
            match because {
                FailedBecause::NotFound => VmError::new(ErrorKind::NotFound, message),
                FailedBecause::Refused => {
                    VmError::new(ErrorKind::Refused, message).with_remedy(if_refused)
                }
                FailedBecause::Failed => VmError::new(ErrorKind::Failed, message),
            }
        }
        AgentError::Silent => VmError::new(ErrorKind::Refused, error.to_string())
            .with_remedy("the guest or its agent may hang: check its console"),
        AgentError::Stream(_) | AgentError::OutOfTurn => {
            VmError::new(ErrorKind::Refused, error.to_string()).with_remedy(
                "the VM or its agent was stopped, or the program that answers is not nvvmm-agent",
            )
        }
    }
}

pub(super) fn process_error(error: ProcessError) -> VmError {
    let message = error.to_string();
    match error {
        ProcessError::Pool(error @ nvvmm_snapshot::Error::TooManyPins { .. }) => {
            VmError::new(ErrorKind::Refused, error.to_string()).with_remedy(
                "take a snapshot of the whole VM with 'nvvmm snapshot': afterwards the VM needs \
                 no image",
            )
        }
        ProcessError::Pool(error) => error.into(),
        ProcessError::Cow(error) => cow_error(error),
        ProcessError::Blob(error) => error.into(),
        ProcessError::Invalid(_) => VmError::new(ErrorKind::Refused, message),
        ProcessError::Overtaken => {
            VmError::new(ErrorKind::Refused, message).with_remedy("try again")
        }
        ProcessError::Memory(_) => VmError::failed(message),
    }
}

#[cfg(test)]
#[path = "process_test.rs"]
mod process_test;

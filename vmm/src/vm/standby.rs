//! A VM that stands by: its machine is built for a snapshot, and waits for somebody who takes it
//! over.
//!
//! The snapshot is pinned, its memory is reserved, the vCPUs exist. They get their state when the
//! VM is taken, so clocks and timers go on from there as after any restore. Nothing of the guest
//! has run, and no thread for it has been started.
//!
//! The VM ends by itself when its snapshot is not in the pool any more, or another one has its
//! name.

use std::{
    mem,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nvvmm_snapshot::Pool;

use super::{
    RestoreOptions, VmError,
    build::{Builder, Prepared},
    options::TakenListener,
    running::RunningVm,
    supervisor::Supervisor,
};
use crate::{
    control::{TakeRequest, VmControl, VmStatus},
    error::ErrorKind,
};

/// Interval of checks that the snapshot is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// State of standing by, which threads of the control socket wait for and change.
#[derive(Default)]
pub(super) struct Standby {
    state: Mutex<State>,
    changed: Condvar,
}

/// The name and the place that a VM was given when it was taken.
pub(super) struct Taken {
    pub name: String,
    pub console: Option<PathBuf>,
    pub at: Instant,
}

#[derive(Default)]
enum State {
    /// Before it stands by, or after whoever took it has heard.
    #[default]
    Other,
    StandsBy {
        vcpus: u8,
        memory_bytes: u64,
    },
    Asked(TakeRequest),
    /// Being restored.
    Taken,
    Answered(Result<(), VmError>),
    Ended,
}

impl Standby {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    /// Number of vCPUs and bytes of memory of a machine that stands by.
    pub fn machine(&self) -> Option<(u8, u64)> {
        match *self.state() {
            State::StandsBy {
                vcpus,
                memory_bytes,
            } => Some((vcpus, memory_bytes)),
            _ => None,
        }
    }

    /// Waits until the machine stands by. False when the VM ended before.
    pub fn wait(&self) -> bool {
        let waits = |state: &mut State| matches!(state, State::Other);
        let state = self.changed.wait_while(self.state(), waits);
        !matches!(*state.unwrap_or_else(PoisonError::into_inner), State::Ended)
    }

    /// Wakes whoever waits: the VM is to end.
    pub fn wake(&self) {
        // Whoever is about to wait has looked under this lock.
        drop(self.state());
        self.changed.notify_all();
    }

    /// The VM has ended.
    pub fn end(&self) {
        self.set(State::Ended);
    }

    /// Has the VM taken, and waits until it runs.
    fn take(&self, request: &TakeRequest) -> Result<(), VmError> {
        let mut state = self.state();
        if !matches!(*state, State::StandsBy { .. }) {
            return Err(VmError::new(ErrorKind::Refused, "the VM does not stand by"));
        }
        *state = State::Asked(request.clone());
        self.changed.notify_all();
        let waits = |state: &mut State| matches!(state, State::Asked(_) | State::Taken);
        let state = self.changed.wait_while(state, waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        match mem::take(&mut *state) {
            State::Answered(answer) => answer,
            State::Ended => {
                *state = State::Ended;
                Err(VmError::new(ErrorKind::Refused, "the VM has ended"))
            }
            State::Other | State::StandsBy { .. } | State::Asked(_) | State::Taken => {
                Err(VmError::failed("the VM was taken by somebody else"))
            }
        }
    }
}

/// Parts of a VM that are needed when it is taken.
pub(super) struct StandingBy<'a> {
    pub pool: &'a Arc<Pool>,
    pub supervisor: &'a Supervisor,
    pub hear_taken: Option<TakenListener>,
    pub restore: RestoreOptions,
}

impl StandingBy<'_> {
    /// Waits until somebody takes the VM over. `None` when the VM is to end.
    ///
    /// # Errors
    /// The machine has disks, or the snapshot is not there any more.
    pub fn wait(&self, prepared: &Prepared) -> Result<Option<TakeRequest>, VmError> {
        if prepared.spec.disks().next().is_some() {
            return Err(has_disks(&self.restore.snapshot));
        }
        let standby = &self.supervisor.standby;
        standby.set(State::StandsBy {
            vcpus: prepared.spec.vcpus,
            memory_bytes: prepared.spec.memory_bytes,
        });
        loop {
            let state = standby.state();
            let waits = |state: &mut State| {
                matches!(state, State::StandsBy { .. }) && !self.supervisor.is_to_end()
            };
            let waited = standby
                .changed
                .wait_timeout_while(state, CHECK_INTERVAL, waits);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if let State::Asked(_) = *state {
                let State::Asked(request) = mem::replace(&mut *state, State::Taken) else {
                    continue;
                };
                drop(state);
                return self.checked(request, prepared).map(Some);
            }
            drop(state);
            if self.supervisor.is_to_end() {
                return Ok(None);
            }
            self.check_snapshot(prepared)?;
        }
    }

    /// Gives the VM its name, and has `builder` build the rest.
    pub fn go_on(
        &self,
        request: &TakeRequest,
        mut prepared: Prepared,
        builder: &Builder<'_>,
    ) -> Result<RunningVm, VmError> {
        prepared.begin_now(request.agent_orders);
        let (vm, slept_ns) = builder.finish(prepared)?;
        let restore = self.restore.clone().ordered(request.agent_orders);
        builder.tell(&restore, slept_ns)?;
        Ok(vm)
    }

    /// Notes the name that the VM has from now on.
    pub fn rename(&self, request: &TakeRequest) -> Result<(), VmError> {
        self.supervisor.set_taken(Taken {
            name: request.name.clone(),
            console: request.console.clone(),
            at: Instant::now(),
        });
        { self.hear_taken.as_ref() }.map_or(Ok(()), |hear| hear(&request.name))
    }

    /// Refuses a request for another snapshot than that which the machine was built for.
    fn checked(&self, request: TakeRequest, prepared: &Prepared) -> Result<TakeRequest, VmError> {
        let refuse = |why: &str| {
            let why = format!("the spare VM does not fit: {why}");
            Err(VmError::new(ErrorKind::Refused, why))
        };
        if request.program != env!("CARGO_PKG_VERSION") {
            return refuse("it is of another version of nvvmm");
        }
        if request.pool != self.pool.path() || request.snapshot != self.restore.snapshot {
            return refuse("it is of another snapshot");
        }
        self.check_snapshot(prepared)?;
        Ok(request)
    }

    /// The snapshot is still there, and is the one that the machine was built for.
    fn check_snapshot(&self, prepared: &Prepared) -> Result<(), VmError> {
        let name = &self.restore.snapshot;
        self.pool.require_name()?;
        let entries = self.pool.entries()?;
        let is_it = |found: &nvvmm_snapshot::SnapshotEntry| {
            found.id == prepared.entry.id
                && found.name == *name
                && found.foreign == prepared.entry.foreign
        };
        if entries.iter().any(is_it) {
            return Ok(());
        }
        Err(VmError::new(
            ErrorKind::NotFound,
            format!("the snapshot '{name}' that the spare VM was built for is not there any more"),
        ))
    }
}

impl Supervisor {
    /// Answers whoever has taken the VM. False when nobody has.
    pub fn answer_taker(&self, answer: Result<(), VmError>) -> bool {
        let mut state = self.standby.state();
        let was_taken = matches!(*state, State::Taken);
        if was_taken {
            *state = State::Answered(answer);
            self.standby.changed.notify_all();
        }
        was_taken
    }

    /// Has the VM taken over; returns when its guest has been entered, or is paused.
    pub fn take(&self, request: &TakeRequest) -> Result<VmStatus, VmError> {
        self.standby.take(request)?;
        Ok(self.status())
    }
}

fn has_disks(snapshot: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!(
            "the machine of '{snapshot}' has disks, which a VM that stands by would keep locked"
        ),
    )
    .with_remedy("restore it without spare VMs: 'nvvmm restore' with --disk")
}

#[cfg(test)]
#[path = "standby_test.rs"]
mod standby_test;

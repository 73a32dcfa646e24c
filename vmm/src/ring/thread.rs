//! The thread that takes a ring's checkpoints.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nvvmm_snapshot::{Pool, Resource, SnapshotId, ask_for};

use super::{Member, report::RingStatus};
use crate::{
    checkpoint::{
        phases::micros_of,
        report::{PhaseTime, SnapshotReport},
    },
    error::VmError,
};

/// Checkpoints that one commit removes at most; others go with the next ones.
const REPLACED_MAX: usize = 32;
/// Time that a ring without a period waits when no checkpoint can be taken.
const REST_MIN: Duration = Duration::from_millis(1);

/// Settings of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSettings {
    /// Time between the beginnings of two checkpoints; none: one begins when the one before is
    /// done.
    pub every: Duration,
    /// Number of checkpoints that are kept, at least 1.
    pub keep: u32,
    /// Number of the oldest checkpoints that the first ones replace, whatever is kept: those of an
    /// earlier VM.
    pub replaced: usize,
}

/// Result of one try to take a checkpoint.
#[derive(Debug)]
pub enum Attempt {
    /// The checkpoint is committed.
    Taken(SnapshotId, Box<SnapshotReport>),
    /// No checkpoint can be taken now, for example because the guest stands still.
    NotNow,
    /// The checkpoint failed, and the next ones would too.
    Failed(VmError),
}

/// Takes the checkpoint of that name, and removes others by the same commit.
pub type TakeCheckpoint = dyn Fn(&str, &[SnapshotId]) -> Attempt + Send + Sync;

/// A ring at work, until it is dropped.
pub struct Ring {
    shared: Arc<Shared>,
    settings: RingSettings,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Work of the thread so far.
struct State {
    stop: bool,
    ended: Option<Instant>,
    failure: Option<VmError>,
    began: Instant,
    taken: u64,
    missed: u64,
    newest: Option<String>,
    kept: u32,
    pause_us: f64,
    pause_us_max: f64,
    held_us_max: f64,
    total_us: f64,
    phases: Vec<PhaseTime>,
}

impl Ring {
    /// Starts a ring. Checkpoints that the VM of that name has in the pool already belong to it:
    /// numbers go on from theirs, and the oldest are removed as new ones come.
    ///
    /// # Errors
    /// The pool cannot be read, or there can be no thread.
    pub fn start(
        pool: &Pool,
        vm: &str,
        settings: RingSettings,
        take: Box<TakeCheckpoint>,
    ) -> Result<Ring, VmError> {
        let members = Member::all(pool, vm)?;
        let state = State {
            stop: false,
            ended: None,
            failure: None,
            began: Instant::now(),
            taken: 0,
            missed: 0,
            newest: members.last().map(|member| member.name.clone()),
            kept: members.len() as u32,
            pause_us: 0.0,
            pause_us_max: 0.0,
            held_us_max: 0.0,
            total_us: 0.0,
            phases: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let turning = Turning {
            shared: Arc::clone(&shared),
            settings,
            vm: vm.to_owned(),
            next: members
                .iter()
                .map(|member| member.number)
                .max()
                .unwrap_or(0)
                + 1,
            members: members.iter().map(|member| member.id).collect(),
            take,
        };
        let thread = ask_for(Resource::Thread)
            .and_then(|()| {
                std::thread::Builder::new()
                    .name("ring".into())
                    .spawn(move || turning.run())
            })
            .map_err(|e| VmError::io("start the ring's thread", &e))?;
        Ok(Ring {
            shared,
            settings,
            thread: Some(thread),
        })
    }

    /// State of the ring now.
    pub fn status(&self) -> RingStatus {
        let state = self.shared.lock();
        let mean = |sum: f64| sum / (state.taken.max(1) as f64);
        let phases = state.phases.iter();
        RingStatus {
            running: state.ended.is_none(),
            failure: state.failure.clone(),
            every_us: self.settings.every.as_micros() as u64,
            keep: self.settings.keep,
            taken: state.taken,
            missed: state.missed,
            newest: state.newest.clone(),
            kept: state.kept,
            lasted_us: micros_of(state.ended.unwrap_or_else(Instant::now) - state.began),
            pause_us_mean: mean(state.pause_us),
            pause_us_max: state.pause_us_max,
            held_us_max: state.held_us_max,
            total_us_mean: mean(state.total_us),
            phases_mean: phases
                .map(|sum| PhaseTime {
                    phase: sum.phase.clone(),
                    us: mean(sum.us),
                })
                .collect(),
        }
    }

    /// Ends the ring, after a checkpoint that is under way. Its checkpoints stay.
    pub fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ring's thread panicked");
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `due`. Returns false when the ring is to stop.
    fn wait_until(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let rest = due.saturating_duration_since(Instant::now());
            if state.stop || rest.is_zero() {
                return !state.stop;
            }
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

/// The thread of a ring.
struct Turning {
    shared: Arc<Shared>,
    settings: RingSettings,
    vm: String,
    /// Number of the next checkpoint.
    next: u64,
    /// The checkpoints, the oldest first.
    members: VecDeque<SnapshotId>,
    take: Box<TakeCheckpoint>,
}

impl Turning {
    fn run(mut self) {
        let mut due = Instant::now();
        while self.shared.wait_until(due) {
            let too_many = (self.members.len() + 1).saturating_sub(self.settings.keep as usize);
            let too_many = too_many.max(self.settings.replaced).min(REPLACED_MAX);
            let replaced: Vec<SnapshotId> = self.members.iter().take(too_many).copied().collect();
            let name = Member::name_of(&self.vm, self.next);
            let mut rest = self.settings.every;
            match (self.take)(&name, &replaced) {
                Attempt::Taken(id, report) => {
                    self.members.drain(..too_many);
                    self.settings.replaced = self.settings.replaced.saturating_sub(too_many);
                    self.members.push_back(id);
                    self.next += 1;
                    self.shared.lock().note(&report, self.members.len());
                }
                Attempt::NotNow => {
                    rest = rest.max(REST_MIN);
                    self.shared.lock().missed += u64::from(!self.settings.every.is_zero());
                }
                Attempt::Failed(error) => {
                    tracing::error!("the ring of checkpoints has ended: {error}");
                    self.shared.lock().failure = Some(error);
                    break;
                }
            }
            due = self.next_due(due + rest);
        }
        self.shared.lock().ended = Some(Instant::now());
    }

    /// Time of the next checkpoint: `due`, or now if that is over. Periods that are over as a whole
    /// count as missed.
    fn next_due(&self, due: Instant) -> Instant {
        let now = Instant::now();
        let every = self.settings.every;
        if every.is_zero() {
            return due.max(now);
        }
        let missed = (now.saturating_duration_since(due).as_nanos() / every.as_nanos()) as u32;
        self.shared.lock().missed += u64::from(missed);
        due + every * missed
    }
}

impl State {
    fn note(&mut self, report: &SnapshotReport, kept: usize) {
        self.taken += 1;
        self.newest = Some(report.name.clone());
        self.kept = kept as u32;
        self.pause_us += report.pause_us;
        self.pause_us_max = self.pause_us_max.max(report.pause_us);
        self.held_us_max = self.held_us_max.max(report.held_us_max);
        self.total_us += report.total_us;
        for time in &report.phases {
            match self.phases.iter_mut().find(|sum| sum.phase == time.phase) {
                Some(sum) => sum.us += time.us,
                None => self.phases.push(time.clone()),
            }
        }
    }
}

#[cfg(test)]
#[path = "thread_test.rs"]
mod thread_test;

//! `nvvmm replicate`: a ring of snapshots of a VM in an object store.
//!
//! This process takes a snapshot, has it pushed, and removes the one before from the pool, and the
//! oldest from the store. Another one speaks to the store ([`pusher`]): it is confined, and this
//! one never waits for it without looking up. The VM is told of each replica, so that `ps` and
//! `stats` show the lag, also when this process was killed.
//!
//! - [`message`]: what the two processes say to each other
//! - [`names`]: names of replicas
//! - [`process`]: the pusher, as this process sees it
//! - [`told`]: what the user is told

mod message;
mod names;
mod process;
mod pusher;
mod told;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nvvmm::control::registry::Entry;
use nvvmm::control::{
    ControlClient, ReplicaStatus, RuntimeDir, SnapshotRequest, VmOrigin, VmStatus,
};
use nvvmm::{ErrorKind, Pool, VmError};
use nvvmm_snapshot::Durability;

use self::message::{Answer, Failure, Order, Replica, Sums};
use self::names::Names;
use self::process::{Fault, Process};
pub use self::told::ps_line;
use self::told::{Teller, Told};
use super::args::ReplicateArguments;
use super::interruption::ends_on_signal;
use super::vm_commands::connect;
use super::{message as messages, outside_disks, pool_path};

/// First and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Interval of looks for a signal during a pause.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Interval of words about a push that takes long.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Fewest removals from the store after which it is collected.
const COLLECT_AFTER_MIN: usize = 10;

/// `nvvmm replicate`.
pub fn run(arguments: &ReplicateArguments) -> Result<(), VmError> {
    if let Some(pool) = &arguments.pusher {
        return pusher::run(arguments, pool);
    }
    let names = Names::new(&arguments.vm)?;
    let dir = RuntimeDir::of_user()?;
    let vm = Target::find(dir, &arguments.vm)?;
    let status = vm.connect()?.status()?;
    let _lock = lock(&vm, &arguments.vm)?;
    let interrupted = ends_on_signal()?;
    let pool = pool_path::open(&status.pool)?;
    outside_disks::tell_of_running(&status);
    let mut process = Process::start(arguments, &status.pool)?;
    let opened = match process.answer(&interrupted, &mut || ()) {
        Err(Fault::Interrupted) => return Ok(()),
        Err(Fault::Failed { error, .. } | Fault::Lost(error)) => return Err(error),
        Ok(opened) => opened,
    };
    let Answer::Opened {
        encrypted,
        replicas,
    } = opened
    else {
        return Err(out_of_turn());
    };
    if !encrypted {
        messages::note(&format!(
            "the store {} is not encrypted: whoever can read it has the memory of its guests",
            arguments.url
        ));
    }
    if !arguments.replace {
        check_goes_on(arguments, &status, &pool, &replicas)?;
    }
    names.remove_snapshots(&pool, None)?;
    let mut replication = Replication::new(arguments, vm, pool, names, interrupted);
    replication.process = Some(process);
    replication.know(replicas);
    let done = replication.go_on();
    let removed = replication.end();
    done.and(removed)
}

/// The VM that is replicated.
struct Target {
    dir: RuntimeDir,
    entry: Entry,
    pid: Option<u32>,
}

impl Target {
    fn find(dir: RuntimeDir, vm: &str) -> Result<Self, VmError> {
        let entry = dir.find(vm)?;
        let pid = connect(&entry)?.pid();
        Ok(Self { dir, entry, pid })
    }

    /// Speaks to the VM, unless another one has got its name.
    fn connect(&self) -> Result<ControlClient, VmError> {
        let client = connect(&self.entry)?;
        match client.pid() == self.pid {
            true => Ok(client),
            false => Err(VmError::new(ErrorKind::NotFound, "the VM has ended")),
        }
    }

    /// True if its process has ended: nobody listens, or another process, and nobody holds its
    /// name.
    fn is_gone(&self) -> bool {
        match connect(&self.entry) {
            Ok(client) => client.pid() != self.pid,
            Err(error) => {
                let is_living = self.dir.is_living(&self.entry.paths.name);
                error.kind == ErrorKind::Refused && !matches!(is_living, Ok(true))
            }
        }
    }
}

/// Excludes another replication of the VM as long as it is held.
fn lock(vm: &Target, name: &str) -> Result<Flock<File>, VmError> {
    let path = vm.dir.path().join(format!(".{name}.replicate"));
    let failed = |e: std::io::Error| VmError::io(format_args!("open {}", path.display()), &e);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => VmError::new(
            ErrorKind::Refused,
            format!("another 'nvvmm replicate' replicates the VM '{name}'"),
        )
        .with_remedy("end that one with Ctrl-C or SIGTERM"),
        errno => failed(errno.into()),
    })
}

/// Refuses to go on with the replicas of another VM, which would be removed one by one.
fn check_goes_on(
    arguments: &ReplicateArguments,
    status: &VmStatus,
    pool: &Pool,
    replicas: &[Replica],
) -> Result<(), VmError> {
    let Some(newest) = replicas.last() else {
        return Ok(());
    };
    // It was replicated before, to the same place, whatever became of that.
    let before = status.replica.as_ref();
    let before = before.filter(|before| before.store == arguments.url.to_string());
    let is_same = before.is_some();
    // It was restored from one of them.
    let origin = match &status.origin {
        VmOrigin::Snapshot { name } => pool.find(name).ok(),
        VmOrigin::Boot { .. } => None,
    };
    let is_restored = origin.is_some_and(|origin| {
        let identity = origin.identity.to_string();
        replicas.iter().any(|replica| replica.identity == identity)
    });
    if is_same || is_restored {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Refused,
        format!(
            "the store has replicas of an earlier VM '{}' (the newest is '{}'), and would lose \
             them one by one",
            arguments.vm, newest.name
        ),
    )
    .with_remedy("--replace does that; or use another prefix, or give the VM another name"))
}

fn out_of_turn() -> VmError {
    VmError::failed("the process that pushes makes no sense")
}

/// A replication under way.
struct Replication<'a> {
    arguments: &'a ReplicateArguments,
    vm: Target,
    pool: Arc<Pool>,
    names: Names,
    interrupted: Arc<AtomicBool>,
    /// None after it was lost.
    process: Option<Process>,
    /// The replicas in the store, the oldest first.
    ring: VecDeque<String>,
    /// The number of the next one.
    next: u64,
    /// The instant that the newest one of this VM is of; before there is one, the beginning.
    newest_at: Instant,
    newest: Option<String>,
    /// Replicas removed from the store since it was collected.
    removed: usize,
    /// Failures since the last push that succeeded.
    failures: u32,
    /// The store had the name of one of them.
    was_taken: bool,
    /// The last failure, until a push succeeds.
    failure: Option<VmError>,
    teller: Teller,
}

/// Results of a step.
enum Step {
    Pushed(Sums),
    /// The VM has ended.
    Gone,
    Interrupted,
}

impl<'a> Replication<'a> {
    fn new(
        arguments: &'a ReplicateArguments,
        vm: Target,
        pool: Arc<Pool>,
        names: Names,
        interrupted: Arc<AtomicBool>,
    ) -> Self {
        Self {
            arguments,
            vm,
            pool,
            names,
            interrupted,
            process: None,
            ring: VecDeque::new(),
            next: 0,
            newest_at: Instant::now(),
            newest: None,
            removed: 0,
            failures: 0,
            was_taken: false,
            failure: None,
            teller: Teller::new(arguments.json.json),
        }
    }

    /// Goes on behind what the store has.
    fn know(&mut self, replicas: Vec<Replica>) {
        let mut there: Vec<(u64, String)> = replicas
            .into_iter()
            .filter_map(|replica| Some((self.names.number_of(&replica.name)?, replica.name)))
            .collect();
        there.sort();
        self.next = there
            .last()
            .map_or(0, |(number, _)| number.saturating_add(1))
            .max(self.next);
        self.ring = there.into_iter().map(|(_, name)| name).collect();
    }

    /// Replicates until the VM ends, or a signal comes.
    fn go_on(&mut self) -> Result<(), VmError> {
        loop {
            let began = Instant::now();
            let step = self.step();
            let until = match step {
                Ok(Step::Gone) => return self.teller.tell(&self.told(None, false)),
                Ok(Step::Interrupted) => return Ok(()),
                Ok(Step::Pushed(sums)) => {
                    (self.failures, self.was_taken) = (0, false);
                    let told = self.told(Some(sums), true);
                    self.newest_at = began;
                    self.newest = self.ring.back().cloned();
                    self.failure = None;
                    self.tell_vm(true);
                    self.teller.tell(&told)?;
                    self.tidy()?;
                    began + self.arguments.every
                }
                Err(Fault::Interrupted) => return Ok(()),
                Err(Fault::Failed {
                    error,
                    kind: Failure::Final,
                }) => return Err(error),
                Err(Fault::Failed { error, kind }) => {
                    self.failed(kind, error)?;
                    Instant::now() + self.pause()
                }
                Err(Fault::Lost(error)) => {
                    self.process = None;
                    self.failed(Failure::Passing, error)?;
                    Instant::now() + self.pause()
                }
            };
            if self.is_interrupted_before(until) {
                return Ok(());
            }
        }
    }

    /// Takes a snapshot, and has it pushed.
    fn step(&mut self) -> Result<Step, Fault> {
        if self.vm.is_gone() {
            return Ok(Step::Gone);
        }
        self.open_again()?;
        let name = self.names.of(self.next);
        let taken = self.vm.connect().and_then(|mut vm| {
            vm.snapshot(SnapshotRequest {
                durability: Some(Durability::Process),
                ..name.as_str().into()
            })
        });
        if let Err(error) = taken {
            return match self.vm.is_gone() {
                true => Ok(Step::Gone),
                false => Err(passing(error)),
            };
        }
        match self.order(&Order::Push {
            snapshot: name.clone(),
        }) {
            Ok(Answer::Pushed(sums)) => {
                self.ring.push_back(name);
                self.next = self.next.saturating_add(1);
                Ok(Step::Pushed(sums))
            }
            Ok(_) => Err(passing(out_of_turn())),
            Err(Fault::Interrupted) => Ok(Step::Interrupted),
            Err(fault) => {
                // The next one has what this one has. The one before stays: the next is compared
                // with it.
                if let Err(error) = self.pool.remove(&name) {
                    tracing::warn!(%error, name, "cannot remove a snapshot");
                }
                Err(fault)
            }
        }
    }

    /// Gives an order, and says now and then that it takes long.
    fn order(&mut self, order: &Order) -> Result<Answer, Fault> {
        let Some(mut process) = self.process.take() else {
            return Err(Fault::Lost(out_of_turn()));
        };
        let interrupted = Arc::clone(&self.interrupted);
        let mut told_at = Instant::now();
        let answer = process.carry_out(order, &interrupted, &mut || {
            if told_at.elapsed() >= TOLD_EVERY {
                told_at = Instant::now();
                // Whoever reads may be gone, which the next replica finds.
                let _ = self.teller.tell(&self.told(None, true));
            }
        });
        self.process = Some(process);
        answer
    }

    /// Starts the process that pushes again, if it was lost.
    fn open_again(&mut self) -> Result<(), Fault> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut process = Process::start(self.arguments, self.pool.path()).map_err(passing)?;
        match process.answer(&self.interrupted, &mut || ())? {
            Answer::Opened { replicas, .. } => {
                self.know(replicas);
                self.process = Some(process);
                Ok(())
            }
            _ => Err(passing(out_of_turn())),
        }
    }

    /// Removes what a newer replica replaces: here, and in the store. A rest that is left is
    /// removed the next time.
    fn tidy(&mut self) -> Result<(), VmError> {
        let newest = self.ring.back().cloned();
        self.names.remove_snapshots(&self.pool, newest.as_deref())?;
        let surplus = self.ring.len().saturating_sub(self.arguments.keep as usize);
        let oldest: Vec<String> = self.ring.iter().take(surplus).cloned().collect();
        if surplus > 0 && self.tidied(&Order::Remove { snapshots: oldest }) {
            self.ring.drain(..surplus);
            self.removed += surplus;
        }
        // So each push pays for about one manifest that a collection reads.
        let collect_after = COLLECT_AFTER_MIN.max(self.arguments.keep as usize);
        if self.removed >= collect_after && self.tidied(&Order::Collect) {
            self.removed = 0;
        }
        Ok(())
    }

    /// Carries out an order that can be left for later.
    fn tidied(&mut self, order: &Order) -> bool {
        match self.order(order) {
            Ok(_) => true,
            Err(Fault::Interrupted) => false,
            Err(Fault::Failed { error, .. }) => {
                tracing::warn!(%error, "the store was not tidied");
                false
            }
            Err(Fault::Lost(error)) => {
                tracing::warn!(%error, "the store was not tidied");
                self.process = None;
                false
            }
        }
    }

    /// Notes a failure, and tells of it.
    fn failed(&mut self, kind: Failure, error: VmError) -> Result<(), VmError> {
        if kind == Failure::NameTaken {
            // A push of which no answer came, also one of the command before, may have been carried
            // out late: once.
            let may_be_own = self.failures > 0 || self.newest.is_none();
            if self.was_taken || !may_be_own {
                return Err(error.with_remedy(
                    "another host replicates a VM of this name to this store: use another prefix",
                ));
            }
            self.was_taken = true;
            self.ring.push_back(self.names.of(self.next));
            self.next = self.next.saturating_add(1);
        }
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(error);
        self.tell_vm(true);
        self.teller.tell(&self.told(None, true))
    }

    fn pause(&self) -> Duration {
        let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        doubled.min(PAUSE_MAX)
    }

    fn is_interrupted_before(&self, until: Instant) -> bool {
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// The words for the user, with the lag of this moment.
    fn told(&self, pushed: Option<Sums>, running: bool) -> Told {
        Told {
            vm: self.arguments.vm.clone(),
            store: self.arguments.url.to_string(),
            running,
            newest: match pushed {
                Some(_) => self.ring.back().cloned(),
                None => self.newest.clone(),
            },
            lag: self.newest_at.elapsed(),
            kept: self.ring.len().min(self.arguments.keep as usize),
            pushed,
            failure: self.failure.clone().filter(|_| pushed.is_none()),
        }
    }

    /// Tells the VM, which tells others.
    fn tell_vm(&self, running: bool) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let status = ReplicaStatus {
            store: self.arguments.url.to_string(),
            running,
            every_us: micros(self.arguments.every),
            newest: self.newest.clone(),
            lag_us: micros(self.newest_at.elapsed()),
            failure: self.failure.clone(),
        };
        let told = self.vm.connect().and_then(|mut vm| vm.replicated(status));
        if let Err(error) = told {
            tracing::info!(%error, "the VM was not told of its replicas");
        }
    }

    /// Ends in good order: nothing is left but the replicas in the store.
    fn end(&mut self) -> Result<(), VmError> {
        // It removes the marker of a push that was given up.
        self.process = None;
        if !self.vm.is_gone() {
            self.tell_vm(false);
        }
        self.names.remove_snapshots(&self.pool, None)
    }
}

fn passing(error: VmError) -> Fault {
    Fault::Failed {
        error,
        kind: Failure::Passing,
    }
}

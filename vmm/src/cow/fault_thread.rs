//! The thread that answers held accesses.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    CowEngine, CowError, Lack,
    releases::Releases,
    shortage::{Reason, Shortage},
    worker::Workers,
};
use crate::{
    disk::{SpaceListener, Wanting},
    stats::{Buckets, Histogram, Longest},
    sys::uffd::Fault,
    threads::{ThreadKind, begin as begin_thread},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm_snapshot::{Error::PoolLocked, Resource, ask_for, wait_for_locks_at_most};

/// Time that a held access waits before it asks a full pool again, at least.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The same at most, where asking takes long.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Time between two tries, as a multiple of the time that a try takes: a large pool is searched for
/// a twentieth of the time.
const RETRY_REST: u32 = 20;
/// Time that one access waits for the pool's lock before the next one is answered.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);
/// Wait for the pool's lock from which on the guest counts as waiting.
const LOCK_NOTICED: Duration = Duration::from_secs(1);
/// Wait for memory that arrives from which on nobody else should wait with the guest.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two calls of [`CowEngine::tidy`].
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Thread that answers held accesses until it is dropped. It must outlive every thread that can
/// touch guest RAM: they would wait for it for ever.
#[derive(Debug)]
pub struct FaultThread {
    /// Closing it tells the thread to end.
    stop: Option<PipeWriter>,
    shortage: Arc<Shortage>,
    held: Arc<HeldTimes>,
    releases: Arc<Releases>,
    failed: Arc<AtomicBool>,
    workers: Workers,
    /// For the end of the VM, which must not fail for a thread.
    ending: Workers,
    thread: Option<JoinHandle<()>>,
}

impl FaultThread {
    /// Starts the thread. `failed` is called once if the thread has to give up; the VM cannot go on
    /// then.
    pub fn start(
        engine: Arc<dyn CowEngine>,
        failed: impl FnOnce(CowError) + Send + 'static,
    ) -> io::Result<Self> {
        ask_for(Resource::Descriptor)?;
        let (stopped, stop) = io::pipe()?;
        let (workers, ending) = (Workers::new()?, Workers::new()?);
        let shortage = Arc::new(Shortage::default());
        let held = Arc::new(HeldTimes::default());
        let releases = Arc::new(Releases::new(engine.ram().size_bytes())?);
        let (noted, timed) = (Arc::clone(&shortage), Arc::clone(&held));
        let named = Arc::clone(&releases);
        let has_failed = Arc::new(AtomicBool::new(false));
        let gave_up = Arc::clone(&has_failed);
        ask_for(Resource::Thread)?;
        let thread = std::thread::Builder::new()
            .name("cow".into())
            .spawn(move || {
                begin_thread(ThreadKind::Memory);
                let answered = answer_all(&*engine, &stopped, &noted, &timed, &named);
                named.close();
                if let Err(error) = answered {
                    gave_up.store(true, Ordering::Relaxed);
                    failed(error);
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            shortage,
            held,
            releases,
            failed: has_failed,
            workers,
            ending,
            thread: Some(thread),
        })
    }

    /// Memory that the guest gives back: this thread empties it.
    pub fn releases(&self) -> &Arc<Releases> {
        &self.releases
    }

    /// True if an access that is held now gets no answer, or none before there is space or
    /// another process does something about the pool's lock.
    pub fn is_stuck(&self) -> bool {
        { self.shortage.reason() }.is_some_and(|of| of > Reason::Lock)
            || self.failed.load(Ordering::Relaxed)
    }

    /// True if an access that is held now gets no answer for a while at least.
    pub fn is_held_up(&self) -> bool {
        self.is_starved() || self.failed.load(Ordering::Relaxed)
    }

    /// Runs work that touches guest RAM in a thread of its own. Returns `None` when an access of
    /// the work, or of the guest, gets no answer. The thread then waits until there is one, or for
    /// ever, and ends with the process.
    ///
    /// # Errors
    /// There is no thread for it. The work was not begun.
    pub fn unless_stuck<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        self.unless(work, || self.is_stuck())
    }

    /// Runs work like [`FaultThread::unless_stuck`], and gives it up when `give_up` returns true.
    ///
    /// # Errors
    /// As those of [`FaultThread::unless_stuck`].
    pub fn unless<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        give_up: impl Fn() -> bool,
    ) -> io::Result<Option<T>> {
        self.workers.run(work, give_up)
    }

    /// Runs the end of the machine like [`FaultThread::unless`], in a thread that is kept for it.
    /// Returns `None` when it was given up.
    pub fn end_unless(
        &self,
        work: impl FnOnce() + Send + 'static,
        give_up: impl Fn() -> bool,
    ) -> Option<()> {
        let ended = self.ending.run(work, give_up);
        ended.unwrap_or_else(|error| {
            tracing::error!(%error, "no thread to end the machine");
            None
        })
    }

    /// Times for which accesses were held that are answered now: from the thread's reading of the
    /// event until the waiting thread was woken.
    pub fn latency(&self) -> Buckets {
        self.held.all.buckets()
    }

    /// The longest of these times: of all, and since somebody began to watch.
    pub fn longest_held(&self) -> &Longest {
        &self.held.longest
    }

    /// True if a guest access waits for something that is used up, or for the pool's lock.
    pub fn is_starved(&self) -> bool {
        self.shortage.lasts()
    }

    /// True if a guest access waits for the pool's lock.
    pub fn waits_for_lock(&self) -> bool {
        let reason = self.shortage.reason();
        matches!(reason, Some(Reason::Lock | Reason::LockForLong))
    }

    /// True if a guest access waits for memory that arrives.
    pub fn waits_for_arrival(&self) -> bool {
        self.shortage.reason() == Some(Reason::Arriving)
    }

    /// The lack that guest accesses wait for the end of, while any waits.
    pub fn starved_of(&self) -> Option<Lack> {
        match self.shortage.reason()? {
            Reason::Lacks(lack) => Some(lack),
            Reason::Arriving | Reason::Lock | Reason::LockForLong => None,
        }
    }

    /// Hears of waits of the disks' requests: the guest stands still for them as for its memory.
    pub fn disk_listener(&self) -> SpaceListener {
        let shortage = Arc::clone(&self.shortage);
        Box::new(move |wanting| {
            let reason = wanting.map(|wanting| match wanting {
                Wanting::Blocks => Reason::Lacks(Lack::Blocks),
                Wanting::Medium => Reason::Lacks(Lack::Medium),
                Wanting::Lock { for_long: true } => Reason::LockForLong,
                Wanting::Lock { for_long: false } => Reason::Lock,
            });
            tell(shortage.set_of_disks(reason), reason);
        })
    }

    /// Calls `listener` when [`FaultThread::is_starved`] changes, and at once if it is true now.
    /// The fault thread makes the call, so `listener` must not wait for a thread that may wait for
    /// guest RAM.
    pub fn on_shortage(&self, listener: impl Fn(bool) + Send + 'static) {
        self.shortage.tell(Box::new(listener));
    }
}

impl Drop for FaultThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Times for which accesses were held.
#[derive(Debug, Default)]
struct HeldTimes {
    all: Histogram,
    longest: Longest,
}

impl HeldTimes {
    fn record(&self, took: Duration) {
        self.all.record(took);
        self.longest.record(took);
    }
}

/// An access that waits, and the time at which this thread read of it.
struct Held {
    fault: Fault,
    since: Instant,
}

fn answer_all(
    engine: &dyn CowEngine,
    stop: &PipeReader,
    shortage: &Shortage,
    times: &HeldTimes,
    releases: &Releases,
) -> Result<(), CowError> {
    let os = |source| CowError::Os {
        op: "wait for held accesses",
        source,
    };
    let mut faults: Vec<Fault> = Vec::new();
    let mut waiting: Vec<Held> = Vec::new();
    let (mut tidied, mut untidy, mut ahead) = (Instant::now(), false, false);
    let mut more_to_release = false;
    let mut retry = RETRY_MIN;
    let arrival = engine.arrival();
    wait_for_locks_at_most(LOCK_PATIENCE);
    loop {
        let timeout = match (untidy || ahead || more_to_release, waiting.is_empty()) {
            (true, _) => Duration::ZERO,
            (false, true) => TIDY_EVERY.min(engine.work_due()),
            (false, false) => retry,
        };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![
            PollFd::new(engine.uffd().as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(releases.woken(), PollFlags::POLLIN),
        ];
        let bell = arrival.as_ref().map(|arrival| arrival.arrived());
        fds.extend(bell.map(|bell| PollFd::new(bell.rings(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(os(errno.into())),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if is_ready(&fds[1]) {
            return Ok(());
        }
        let is_woken = is_ready(&fds[2]);
        if let Some(bell) = bell.filter(|_| fds.get(3).is_some_and(is_ready)) {
            bell.hear();
        }
        engine.uffd().read(&mut faults).map_err(os)?;
        let asked = Instant::now();
        let waited = std::mem::take(&mut waiting);
        let new = faults.drain(..).map(|fault| Held {
            fault,
            since: asked,
        });
        let mut reason = None;
        for held in waited.into_iter().chain(new) {
            match engine.answer(held.fault) {
                Ok(()) => times.record(held.since.elapsed()),
                Err(error) => {
                    reason = reason.max(reason_to_wait(&error, &held));
                    if !may_be_tried_again(&error) {
                        return Err(error);
                    }
                    // An access that a signal interrupts is held, and told, anew each time: once
                    // is enough.
                    if !waiting.iter().any(|known| known.fault == held.fault) {
                        waiting.push(held);
                    }
                }
            }
        }
        retry = (asked.elapsed() * RETRY_REST).clamp(RETRY_MIN, RETRY_MAX);
        tell(shortage.set(reason), reason);
        more_to_release = releases.serve(engine, is_woken)?;
        ahead = waiting.is_empty() && engine.work_ahead()?;
        if untidy || tidied.elapsed() >= TIDY_EVERY {
            untidy = match engine.tidy() {
                Ok(untidy) => untidy,
                // There is time.
                Err(CowError::Locked(_)) => false,
                Err(error) => {
                    tracing::warn!("the VM holds more of the pool than it needs: {error}");
                    false
                }
            };
            tidied = Instant::now();
        }
    }
}

fn may_be_tried_again(error: &CowError) -> bool {
    matches!(
        error,
        CowError::NoSpace(_) | CowError::Arriving | CowError::Locked(_)
    )
}

/// Reason for which the VM counts as waiting because of an access. A lock is usually free before
/// anybody would notice.
fn reason_to_wait(error: &CowError, held: &Held) -> Option<Reason> {
    match error {
        CowError::NoSpace(lack) => Some(Reason::Lacks(*lack)),
        // Whoever fetches says more, unless it stands still.
        CowError::Arriving if held.since.elapsed() >= ARRIVAL_PATIENCE => {
            Some(Reason::Lacks(Lack::Store))
        }
        CowError::Arriving => Some(Reason::Arriving),
        CowError::Locked(PoolLocked { hopeless: true, .. }) => Some(Reason::LockForLong),
        CowError::Locked(_) => (held.since.elapsed() >= LOCK_NOTICED).then_some(Reason::Lock),
        _ => None,
    }
}

/// Logs a change of the reason for which the guest waits.
fn tell(changed_from: Option<Option<Reason>>, reason: Option<Reason>) {
    match (changed_from, reason) {
        (None, _)
        | (_, Some(Reason::Arriving))
        | (Some(None | Some(Reason::Arriving)), None)
        | (Some(Some(Reason::Lock)), Some(Reason::LockForLong)) => {}
        (Some(_), Some(Reason::Lacks(lack))) => tracing::warn!(
            "{lack}: the guest stands still until there is ({}), then it goes on by itself",
            lack.remedy()
        ),
        (Some(_), Some(Reason::Lock | Reason::LockForLong)) => tracing::warn!(
            "another process has the pool's lock: the guest stands still until it gives the lock \
             back, then it goes on by itself"
        ),
        (Some(_), None) => tracing::info!("the guest has what it waited for, and goes on"),
    }
}

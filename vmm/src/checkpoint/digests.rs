//! Digests of a VM's snapshots: made after the commit and off the VM's path.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nvvmm_snapshot::{Error, Pool, Resource, ScrubReport, SnapshotId, ask_for};

/// Time for which the thread rests, as a multiple of the time that it worked: it takes a fifth of
/// one CPU at most. A lower priority would be no substitute, because the holder of the pool's
/// catalog lock must not wait for a CPU.
const REST_FACTOR: u32 = 4;

/// Makes digests of a VM's snapshots: slowly in the background, one snapshot after the other, or at
/// once. A scrub makes those that are left when the VM ends.
pub struct Digests {
    pool: Arc<Pool>,
    ended: Arc<AtomicBool>,
    background: Mutex<Option<Background>>,
}

struct Background {
    queue: Sender<SnapshotId>,
    thread: JoinHandle<()>,
}

impl Digests {
    /// Makes digests for a VM on this pool. The thread starts with the first snapshot.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            ended: Arc::default(),
            background: Mutex::default(),
        }
    }

    /// Makes digests of a committed snapshot's blocks in the background, if the host has a thread
    /// for that. Else a scrub makes them.
    pub fn make_later(&self, id: SnapshotId) {
        let mut background = self.background();
        if background.is_none() {
            match self.start() {
                Ok(started) => *background = Some(started),
                Err(error) => {
                    tracing::warn!(%error, "no thread to make digests: a scrub will make them");
                }
            }
        }
        if let Some(background) = &*background
            && background.queue.send(id).is_err()
        {
            tracing::warn!("the thread that makes digests has ended: a scrub will make them");
        }
    }

    fn start(&self) -> io::Result<Background> {
        ask_for(Resource::Thread)?;
        let (queue, snapshots) = channel();
        let (pool, ended) = (Arc::clone(&self.pool), Arc::clone(&self.ended));
        let thread = thread::Builder::new()
            .name("digests".into())
            .spawn(move || make_all(&pool, &snapshots, &ended))?;
        Ok(Background { queue, thread })
    }

    fn background(&self) -> MutexGuard<'_, Option<Background>> {
        self.background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes digests of a committed snapshot's blocks. The report says so when [`Digests::end`] was
    /// called before all had one.
    ///
    /// # Errors
    /// As [`Pool::make_digests`].
    pub fn make_now(&self, id: SnapshotId) -> Result<ScrubReport, Error> {
        self.pool.make_digests(id, &mut |_| go_on(&self.ended))
    }

    /// Ends the work at once, here and in the background. No more is begun.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(background) = &*self.background() {
            background.thread.thread().unpark();
        }
    }
}

impl Drop for Digests {
    fn drop(&mut self) {
        self.end();
        let Some(Background { queue, thread }) = self.background().take() else {
            return;
        };
        drop(queue);
        if thread.join().is_err() {
            tracing::error!("the thread that makes digests panicked");
        }
    }
}

fn go_on(ended: &AtomicBool) -> ControlFlow<()> {
    if ended.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn make_all(pool: &Arc<Pool>, snapshots: &Receiver<SnapshotId>, ended: &AtomicBool) {
    while let Ok(id) = snapshots.recv() {
        if go_on(ended).is_break() {
            return;
        }
        let mut working = Instant::now();
        let made = pool.make_digests(id, &mut |_| {
            // Who ends it wakes it up; waking up early for another reason does no harm.
            if go_on(ended).is_continue() {
                thread::park_timeout(working.elapsed() * REST_FACTOR);
            }
            working = Instant::now();
            go_on(ended)
        });
        match made {
            Ok(report) if report.is_clean() => {
                tracing::debug!(%id, made = report.digests_made, "digests")
            }
            Ok(_) => tracing::error!(
                "snapshot {id} is damaged: look at the pool with 'nvvmm pool scrub'"
            ),
            // It was removed before its turn came.
            Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!("the digests of snapshot {id} could not be made: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "digests_test.rs"]
mod digests_test;

//! Digests of what snapshots hold, made after the commit while the VM runs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nvvmm_snapshot::{Error, Pool, SnapshotId};

/// For each unit of time that it works the thread rests so many: a fifth of one CPU at most. A lower priority would be no
/// substitute: whoever has the pool's catalog lock must not wait for a CPU.
const REST_FACTOR: u32 = 4;

/// Makes digests of a VM's snapshots in the background, one snapshot after the other, never in a hurry. What it has not
/// done when the VM ends, a scrub does.
pub struct DigestThread {
    pool: Arc<Pool>,
    ended: Arc<AtomicBool>,
    running: OnceLock<Running>,
}

struct Running {
    queue: Sender<SnapshotId>,
    thread: JoinHandle<()>,
}

impl DigestThread {
    /// For a VM on this pool. No thread runs before there is something to do.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            ended: Arc::default(),
            running: OnceLock::new(),
        }
    }

    /// A snapshot was committed.
    pub fn add(&self, id: SnapshotId) {
        let running = self.running.get_or_init(|| {
            let (queue, snapshots) = channel();
            let (pool, ended) = (Arc::clone(&self.pool), Arc::clone(&self.ended));
            let thread = thread::spawn(move || make_all(&pool, &snapshots, &ended));
            Running { queue, thread }
        });
        if running.queue.send(id).is_err() {
            tracing::warn!("the thread that makes digests has ended: a scrub will make them");
        }
    }
}

impl Drop for DigestThread {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let Some(Running { queue, thread }) = self.running.take() else {
            return;
        };
        drop(queue);
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the thread that makes digests panicked");
        }
    }
}

fn make_all(pool: &Arc<Pool>, snapshots: &Receiver<SnapshotId>, ended: &AtomicBool) {
    while let Ok(id) = snapshots.recv() {
        let mut working = Instant::now();
        let made = pool.make_digests(id, &mut |_| {
            // Who ends it wakes it up; waking up early for another reason does no harm.
            if !ended.load(Ordering::Relaxed) {
                thread::park_timeout(working.elapsed() * REST_FACTOR);
            }
            working = Instant::now();
            if ended.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match made {
            Ok(report) => tracing::debug!(%id, made = report.digests_made, "digests"),
            // It was removed before its turn came.
            Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!("the digests of snapshot {id} could not be made: {error}"),
        }
        if ended.load(Ordering::Relaxed) {
            return;
        }
    }
}

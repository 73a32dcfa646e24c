//! Cleans the blocks that a VM's commits free, off the VM's path.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvvmm_snapshot::{Pool, Resource, ask_for};

/// Longest wait for freed blocks in one go.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A thread that cleans freed blocks. It starts when there are some for the first time.
pub struct Cleaner {
    pool: Arc<Pool>,
    ended: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Cleaner {
    /// Cleans for the VMs of this process on this pool.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            ended: Arc::default(),
            thread: Mutex::default(),
        }
    }

    /// Has the blocks cleaned that this process has freed, now and from now on, if the host has a
    /// thread for that. Else whoever needs them cleans them, or the end of the process.
    pub fn clean_later(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() || !self.pool.has_freed() {
            return;
        }
        match self.start() {
            Ok(started) => *thread = Some(started),
            Err(error) => {
                tracing::warn!(%error, "no thread to clean freed blocks: they are cleaned later");
            }
        }
    }

    fn start(&self) -> io::Result<JoinHandle<()>> {
        ask_for(Resource::Thread)?;
        let (pool, ended) = (Arc::clone(&self.pool), Arc::clone(&self.ended));
        thread::Builder::new()
            .name("cleaner".into())
            .spawn(move || clean(&pool, &ended))
    }
}

fn clean(pool: &Pool, ended: &AtomicBool) {
    let go_on = || !ended.load(Ordering::Relaxed);
    while go_on() {
        if let Err(error) = pool.clean_while(go_on) {
            tracing::warn!(%error, "could not clean all freed blocks: the pool's next user does");
        }
        pool.wait_for_freed(LOOK_EVERY, go_on);
    }
}

impl Drop for Cleaner {
    /// Ends the thread. What is left is cleaned when the pool is closed.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.pool.wake_cleaner();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that cleans freed blocks panicked");
        }
    }
}

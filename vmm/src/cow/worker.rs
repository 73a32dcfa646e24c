//! Work in a thread of its own, for which the caller may stop waiting.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use nvvmm_snapshot::{Resource, ask_for};

/// Time between two calls of `give_up` while work is waited for.
const WORK_POLL: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce() + Send>;

/// Threads for work. A thread that is done stays for the next piece: to start one, with a fresh
/// stack and heap, costs more than much of the work. And when it is needed, there may be none: the
/// first is made with this value.
#[derive(Debug)]
pub(super) struct Workers {
    idle: Mutex<Option<Sender<Job>>>,
}

impl Workers {
    /// Workers with one thread.
    ///
    /// # Errors
    /// The host has no thread.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            idle: Mutex::new(Some(new_thread()?)),
        })
    }

    /// Runs work. Returns `None` when `give_up` returned true first, or the work panicked. Work
    /// that was given up goes on in its thread, which is not used again.
    ///
    /// # Errors
    /// All threads are busy, and the host has no other. The work was not begun.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        give_up: impl Fn() -> bool,
    ) -> io::Result<Option<T>> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more for work that was given up.
            let _ = done.send(work());
        });
        let worker = self.worker()?;
        // The send only fails when the job before panicked after its end. This job counts as not
        // done then.
        let _ = worker.send(job);
        loop {
            match result.recv_timeout(WORK_POLL) {
                Ok(result) => {
                    *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
                    return Ok(Some(result));
                }
                Err(RecvTimeoutError::Timeout) if !give_up() => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// The idle thread, or a new one.
    fn worker(&self) -> io::Result<Sender<Job>> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        idle.map_or_else(new_thread, Ok)
    }
}

/// A thread ends when its sender is gone and its work done.
fn new_thread() -> io::Result<Sender<Job>> {
    ask_for(Resource::Thread)?;
    let (worker, jobs) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("work".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()))?;
    Ok(worker)
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;

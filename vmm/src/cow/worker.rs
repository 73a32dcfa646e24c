//! Work in a thread of its own, for which the caller may stop waiting.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// Time between two calls of `give_up` while work is waited for.
const WORK_POLL: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce() + Send>;

/// Threads for work. A thread that is done stays for the next piece: to start one, with a fresh
/// stack and heap, costs more than much of the work.
#[derive(Debug, Default)]
pub(super) struct Workers {
    idle: Mutex<Option<Sender<Job>>>,
}

impl Workers {
    /// Runs work. Returns `None` when `give_up` returned true first, or the work panicked. Work
    /// that was given up goes on in its thread, which is not used again.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        give_up: impl Fn() -> bool,
    ) -> Option<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more for work that was given up.
            let _ = done.send(work());
        });
        let worker = self.hand_over(job);
        loop {
            match result.recv_timeout(WORK_POLL) {
                Ok(result) => {
                    *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
                    return Some(result);
                }
                Err(RecvTimeoutError::Timeout) if !give_up() => {}
                Err(_) => return None,
            }
        }
    }

    /// Hands a job to the idle thread, or to a new one. A thread ends when its sender is gone and
    /// its work done.
    fn hand_over(&self, job: Job) -> Sender<Job> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let worker = idle.unwrap_or_else(|| {
            let (worker, jobs) = mpsc::channel::<Job>();
            thread::spawn(move || jobs.into_iter().for_each(|job| job()));
            worker
        });
        // The send only fails when the job before panicked after its end. This job counts as not
        // done then.
        let _ = worker.send(job);
        worker
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;

//! Work done in a thread of its own that somebody may stop waiting for.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// How often whoever waits for work looks whether to give it up.
const WORK_POLL: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce() + Send>;

/// Threads for work. One that is done stays for the next piece: to start one, with a fresh stack
/// and heap, costs more than much of the work.
#[derive(Debug, Default)]
pub(super) struct Workers {
    idle: Mutex<Option<Sender<Job>>>,
}

impl Workers {
    /// Does work. `None` when it was given up because `give_up` says so, or did not come to an end:
    /// its thread then goes on for as long as the work lasts, and is nobody's any more.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        give_up: impl Fn() -> bool,
    ) -> Option<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more for what was given up.
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

    /// To the thread that is idle, or a new one. It ends when its sender is gone and its work done.
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
        // It takes no more only when work before this one panicked after its end: then this one
        // counts as not done.
        let _ = worker.send(job);
        worker
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;

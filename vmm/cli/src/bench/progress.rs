//! Says what the benchmark does, and stops it between two steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use nvvmm::VmError;

/// Progress of one run.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    interrupted: Arc<AtomicBool>,
    tell: fn(&str),
}

impl Progress {
    /// Begins a run now, which ends when `interrupted` is set. `tell` prints lines for the user.
    pub fn begin(interrupted: Arc<AtomicBool>, tell: fn(&str)) -> Self {
        Self {
            began: Instant::now(),
            interrupted,
            tell,
        }
    }

    /// Says what is done next.
    ///
    /// # Errors
    /// The user has interrupted the run.
    pub fn step(&self, what: &str) -> Result<(), VmError> {
        (self.tell)(&format!("nvvmm bench: {:4.0} s  {what}\n", self.took_s()));
        self.go_on()
    }

    /// Begins a run that prints nothing.
    ///
    /// # Errors
    /// The user has interrupted the run.
    pub fn go_on(&self) -> Result<(), VmError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(VmError::failed("interrupted"));
        }
        Ok(())
    }

    /// Seconds since the beginning.
    pub fn took_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

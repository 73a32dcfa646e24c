//! Work of copy-on-write while a guest wrote.

use std::time::Instant;

use nvvmm::{VmError, checkpoint::report::RamCounters};

use super::{console::number, guest::Guest};

/// Result of some work, and the time that it took, in microseconds.
///
/// # Errors
/// As the work's.
pub fn timed<T>(work: impl FnOnce() -> Result<T, VmError>) -> Result<(T, f64), VmError> {
    let began = Instant::now();
    let result = work()?;
    Ok((result, began.elapsed().as_secs_f64() * 1e6))
}

/// Counts of one command to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Frames that the guest wrote to.
    pub frames_written: f64,
    /// Writes that were held.
    pub faults: f64,
    /// Frames that were copied for it.
    pub frames_copied: f64,
    /// Duration of the command, in microseconds.
    pub us: f64,
}

impl Writes {
    /// Has the guest do what the command says.
    ///
    /// # Errors
    /// As [`Guest::ask`]; its answer does not say how many frames it wrote.
    pub fn of(guest: &mut Guest, command: &str) -> Result<Self, VmError> {
        let before = guest.vm().engine.counters();
        let (answer, us) = timed(|| guest.ask(command))?;
        let after = guest.vm().engine.counters();
        let grown =
            |count: fn(&RamCounters) -> u64| count(&after).saturating_sub(count(&before)) as f64;
        Ok(Self {
            frames_written: number(&answer, "frames")? as f64,
            faults: grown(|counters| counters.write_faults),
            frames_copied: grown(|counters| counters.frames_copied),
            us,
        })
    }

    /// Microseconds for each frame.
    pub fn us_each(&self) -> f64 {
        self.us / self.frames_written
    }

    /// Writes that were held, for each frame.
    pub fn faults_each(&self) -> f64 {
        self.faults / self.frames_written
    }

    /// Frames copied for each that was written.
    pub fn amplification(&self) -> f64 {
        self.frames_copied / self.frames_written
    }
}

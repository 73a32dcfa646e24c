//! A guest that writes its memory frame by frame for ever (`pace`, guest/bare-metal/README.md), as
//! the host sees it: in the guest's memory, while it runs. Nobody interrupts the guest for that.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nvvmm::{VmError, vm::RunningVm};

use super::{bench_pool::BenchPool, copied::CopiedCheckpoint, guest::Guest};

/// Address of the state of `pace` in the guest, and of words in it.
const STATE: u64 = 0x10_1000;
const GRANULE: u64 = STATE + 6 * 8;
const LOG: u64 = STATE + 7 * 8;
const STEPS: u64 = STATE + 0x40;
const TSC: u64 = STEPS + 8;
/// Entries of the log.
const LOG_LEN: u64 = 32768;
/// Passes over which the usual duration of a step is taken.
const USUAL_PASSES: u64 = 3;
/// Least time over which the guest's time stamp counter is compared with the host's clock.
const CALIBRATE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_micros(500);
/// Measurements that are tried.
const ATTEMPTS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest time for which a guest may wait for space: a commit is about to free some.
const STARVED_MAX: Duration = Duration::from_secs(10);

/// A guest that walks.
pub struct Walk {
    vm: Arc<RunningVm>,
    /// Steps of vCPU 0 in a pass.
    pass: u64,
    granule: u64,
    log: u64,
    /// Time stamp counts in a microsecond.
    counts_per_us: f64,
}

/// A step that the log has.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    /// Its number, counted from 1.
    pub step: u64,
    /// Time after it, in microseconds of the guest.
    pub us: f64,
}

/// Cost of something for a guest that walks.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Time that the guest stood still, in microseconds.
    pub pause_us: f64,
    /// Time that the guest has lost until it had written each of the parts: pause and extra time.
    pub lost_us: Vec<f64>,
}

impl Walk {
    /// Lets a guest begin to walk through `size_bytes`.
    ///
    /// # Errors
    /// As [`Guest::ask`].
    pub fn begin(guest: &mut Guest, size_bytes: u64, order: &str) -> Result<Self, VmError> {
        let answer = guest.ask(&format!("pace on {} {order} write", size_bytes >> 20))?;
        let mut walk = Self {
            vm: Arc::clone(guest.vm()),
            pass: super::console::number(&answer, "pass")?,
            granule: 1,
            log: 0,
            counts_per_us: 1.0,
        };
        walk.granule = walk.word(GRANULE)?.max(1);
        walk.log = walk.word(LOG)?;
        // The first pass takes fresh memory.
        walk.wait_for(walk.pass)?;
        let look = || Ok::<_, VmError>((Instant::now(), walk.word(TSC)?));
        let (began, first) = look()?;
        thread::sleep(CALIBRATE);
        let (ended, last) = look()?;
        walk.counts_per_us = (last - first) as f64 / ((ended - began).as_secs_f64() * 1e6);
        Ok(walk)
    }

    /// Has the guest stop, and compare all that it has written; how many frames that are.
    ///
    /// # Errors
    /// A frame is wrong.
    pub fn end(self, guest: &mut Guest) -> Result<u64, VmError> {
        drop(self);
        verify(guest)
    }

    /// Waits until the guest has done so many whole passes without anything special.
    ///
    /// # Errors
    /// It does not go on.
    pub fn settle(&self) -> Result<(), VmError> {
        self.wait_for(self.word(STEPS)? + (USUAL_PASSES + 1) * self.pass)
    }

    /// Measures the cost of what `take` does. It returns the number of steps that the guest had
    /// done at the instant of the checkpoint. `parts` of all memory are to be written from then
    /// on. Done anew when the guest was too fast for its log.
    ///
    /// # Errors
    /// As those of `take`; the guest does not go on, or was too fast for its log again and again.
    pub fn cost(
        &self,
        parts: &[f64],
        mut take: impl FnMut() -> Result<u64, VmError>,
    ) -> Result<Cost, VmError> {
        for _ in 1..ATTEMPTS {
            self.settle()?;
            if let Some(cost) = self.try_cost(parts, &mut take)? {
                return Ok(cost);
            }
        }
        self.settle()?;
        self.try_cost(parts, &mut take)?.ok_or_else(|| {
            VmError::failed("the guest writes so little memory that its log does not last")
                .with_remedy("give larger --sizes")
        })
    }

    fn try_cost(
        &self,
        parts: &[f64],
        take: &mut impl FnMut() -> Result<u64, VmError>,
    ) -> Result<Option<Cost>, VmError> {
        let now = self.word(STEPS)?;
        let (Some(from), Some(before)) = (
            self.logged(now)?,
            self.logged(now.saturating_sub(USUAL_PASSES * self.pass))?,
        ) else {
            return Ok(None);
        };
        let usual_us = (from.us - before.us) / (from.step - before.step) as f64;
        let instant = take()?;
        let last = parts.iter().copied().fold(0.0, f64::max);
        let after = |part: f64| instant + ((part * self.pass as f64) as u64).max(1);
        self.wait_for(after(last) + self.granule)?;
        let lost_until = |end: Logged, from: Logged| {
            (end.us - from.us) - (end.step - from.step) as f64 * usual_us
        };
        let mut lost_us = Vec::new();
        for part in parts {
            match self.logged(after(*part).next_multiple_of(self.granule))? {
                Some(end) => lost_us.push(lost_until(end, from)),
                None => return Ok(None),
            }
        }
        // The entry in which the guest stood still.
        let end = (instant + 1).next_multiple_of(self.granule);
        let (Some(begin), Some(end)) = (self.logged(end - self.granule)?, self.logged(end)?) else {
            return Ok(None);
        };
        let pause_us = lost_until(end, begin).max(0.0);
        Ok(Some(Cost { pause_us, lost_us }))
    }

    /// Waits until the guest has done so many steps.
    ///
    /// # Errors
    /// It does not go on.
    pub fn wait_for(&self, steps: u64) -> Result<(), VmError> {
        let until = Instant::now() + PATIENCE;
        let mut ran = Instant::now();
        while self.word(STEPS)? < steps {
            if !self.vm.faults.is_starved() {
                ran = Instant::now();
            }
            if Instant::now() > until || ran.elapsed() > STARVED_MAX {
                return Err(VmError::failed("the guest does not go on"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The guest's largest gap between two steps since it was asked last, in microseconds.
    ///
    /// # Errors
    /// As [`Guest::ask`].
    pub fn largest_gap_us(&self, guest: &mut Guest) -> Result<f64, VmError> {
        let largest = super::console::numbers(&guest.ask("pace")?, "largest")?;
        Ok(largest.into_iter().max().unwrap_or(0) as f64 / self.counts_per_us)
    }

    /// The last step of an entry of the log that is not after `step`; `None` when the log does not
    /// have it.
    fn logged(&self, step: u64) -> Result<Option<Logged>, VmError> {
        let entry = step / self.granule;
        let counts = self.word(self.log + entry % LOG_LEN * 8)?;
        let newest = self.word(STEPS)? / self.granule;
        let has_it = (1..=newest).contains(&entry) && newest - entry < LOG_LEN - 1;
        Ok(has_it.then(|| Logged {
            step: entry * self.granule,
            us: counts as f64 / self.counts_per_us,
        }))
    }

    fn word(&self, address: u64) -> Result<u64, VmError> {
        let mut bytes = [0; 8];
        let memory = self.vm.engine.ram().reservation();
        memory
            .read(address as usize, &mut bytes)
            .map_err(|e| VmError::io("read the guest's memory", &e))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Has a guest that walks stop, also one that was restored while it did, and compare all that it
/// has written; how many frames that are.
///
/// # Errors
/// A frame is wrong.
pub fn verify(guest: &mut Guest) -> Result<u64, VmError> {
    guest.ask("pace off")?;
    super::console::number(&guest.ask("pace check")?, "frames")
}

/// Steps that a guest had done at the instant of a snapshot.
///
/// # Errors
/// The pool's.
pub fn steps_in_snapshot(pool: &BenchPool, snapshot: &str) -> Result<u64, VmError> {
    let mut bytes = [0; 8];
    pool.read_snapshot(snapshot, STEPS, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Steps that a guest had done at the instant of a copied checkpoint.
///
/// # Errors
/// The file cannot be read.
pub fn steps_in_copy(copy: &CopiedCheckpoint) -> Result<u64, VmError> {
    let mut bytes = [0; 8];
    File::open(copy.memory_path())
        .and_then(|file| file.read_exact_at(&mut bytes, STEPS))
        .map_err(|e| VmError::io("read the guest's memory", &e))?;
    Ok(u64::from_le_bytes(bytes))
}

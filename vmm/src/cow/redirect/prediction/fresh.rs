//! Stretches of memory that the guest touches for the first time, one frame after the other.
//!
//! For example, a guest that clears its memory touches frame 0, then 1, and so on. Each touch that
//! is held costs far more than to give a frame memory, so a touch at the end of a stretch gives
//! memory to as many frames as half of the stretch has. What is given in vain is never more than
//! half of what was touched, and one cluster.

/// Stretches that are remembered: more than one vCPU may clear memory.
const RUNS: usize = 8;

/// Frames that have got memory without a gap, by number in RAM.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    start: u64,
    end: u64,
}

/// The last stretches, the newest first.
#[derive(Debug, Default)]
pub(super) struct FreshRuns([Run; RUNS]);

impl FreshRuns {
    /// Frames, a power of two, that a touch of frame `at` may give memory to.
    pub fn frames_ahead(&self, at: u64) -> u32 {
        let run = self.0.iter().find(|run| run.end == at && run.end > 0);
        let half = run.map_or(0, |run| (run.end - run.start) / 2);
        half.checked_ilog2().map_or(1, |log| 1 << log.min(30))
    }

    /// Notes that the frames from `at` to `end` have memory.
    pub fn note(&mut self, at: u64, end: u64) {
        let known = self.0.iter().position(|run| run.end == at && run.end > 0);
        let run = match known {
            Some(place) => Run {
                start: self.0[place].start,
                end,
            },
            None => Run { start: at, end },
        };
        self.0[..=known.unwrap_or(RUNS - 1)].rotate_right(1);
        self.0[0] = run;
    }
}

#[cfg(test)]
#[path = "fresh_test.rs"]
mod fresh_test;

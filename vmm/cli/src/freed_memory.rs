//! The wait before a snapshot for memory that the guest has freed: `nvvmm snapshot --wait-freed`.

use std::thread;
use std::time::{Duration, Instant};

use nvvmm::VmError;
use nvvmm::control::{ControlClient, MemoryStatus, VmState};
use nvvmm_snapshot::SizeText;

/// Time without a report after which the guest has nothing more to report. Linux reports in steps
/// of two seconds (`PAGE_REPORTING_DELAY`).
const QUIET: Duration = Duration::from_millis(3_500);
const POLL: Duration = Duration::from_millis(250);

/// Waits until the guest has given back what it has freed, at most for `limit`. A guest that stands
/// still, or reports nothing, is not waited for.
///
/// # Errors
/// The VM does not answer.
pub fn wait(vm: &mut ControlClient, limit: Duration) -> Result<(), VmError> {
    let begun = Instant::now();
    let at_first = vm.memory(None)?;
    let mut seen = Seen::of(&at_first, begun);
    loop {
        let memory = vm.memory(None)?;
        let now = Instant::now();
        if vm.status()?.state != VmState::Running
            || seen.is_over(&memory, now)
            || now.duration_since(begun) >= limit
        {
            let [first, last] = [&at_first, &memory].map(|memory| released(memory).unwrap_or(0));
            let size = SizeText::of(last.saturating_sub(first));
            tracing::info!("the guest gave {size} back before the snapshot");
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// The reports that were seen so far.
struct Seen {
    released: Option<u64>,
    at: Instant,
}

impl Seen {
    fn of(memory: &MemoryStatus, at: Instant) -> Self {
        Self {
            released: released(memory),
            at,
        }
    }

    /// True when no report is expected any more.
    fn is_over(&mut self, memory: &MemoryStatus, now: Instant) -> bool {
        let released = released(memory);
        if released != self.released {
            (self.released, self.at) = (released, now);
        }
        released.is_none() || now.duration_since(self.at) >= QUIET
    }
}

/// Bytes that were given back so far, if the guest reports any.
fn released(memory: &MemoryStatus) -> Option<u64> {
    let balloon = memory.balloon.as_ref()?;
    balloon.reports_free.then_some(balloon.released_bytes)
}

#[cfg(test)]
#[path = "freed_memory_test.rs"]
mod freed_memory_test;

//! Reboots of a VM's guest: their number, and what becomes of the VM.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{OnReboot, RebootListener, VmOptions};

/// So many reboots within [`LOOP_TIME`] are a guest that reboots again and again.
const LOOP_COUNT: usize = 3;
const LOOP_TIME: Duration = Duration::from_secs(300);

/// Reboots so far.
pub(super) struct Reboots {
    on_reboot: OnReboot,
    listener: Option<RebootListener>,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    count: u64,
    /// Times of the last ones, oldest first, at most [`LOOP_COUNT`].
    last: VecDeque<Instant>,
}

impl Reboots {
    pub fn of(options: &VmOptions) -> Self {
        Self {
            on_reboot: options.on_reboot,
            listener: options.hear_reboot.clone(),
            counted: Mutex::default(),
        }
    }

    /// The VM ends when its guest resets the machine.
    pub fn end_the_vm(&self) -> bool {
        self.on_reboot == OnReboot::Exit
    }

    /// Counts one that happens now.
    pub fn add(&self, now: Instant) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.count += 1;
        counted.last.push_back(now);
        if counted.last.len() > LOOP_COUNT {
            counted.last.pop_front();
        }
        let count = counted.count;
        drop(counted);
        if let Some(listener) = &self.listener {
            listener(count);
        }
    }

    /// Number of reboots.
    pub fn count(&self) -> u64 {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.count
    }

    /// Notice of `nvvmm ps` for a guest that reboots again and again.
    pub fn notice(&self, now: Instant) -> Option<String> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_loop = counted.last.len() == LOOP_COUNT && { counted.last.front() }
            .is_some_and(|first| now.saturating_duration_since(*first) < LOOP_TIME);
        is_loop.then(|| {
            format!(
                "the guest reboots again and again: {} times so far; '--on-reboot exit' ends such \
                 a VM",
                counted.count
            )
        })
    }
}

#[cfg(test)]
#[path = "reboots_test.rs"]
mod reboots_test;

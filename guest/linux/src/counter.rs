//! A number that only grows, driven by the guest's own timers.

use crate::answer;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The counter; cloned handles are the same one.
#[derive(Clone, Default)]
pub struct Counter {
    value: Arc<AtomicU64>,
    ticking: Arc<AtomicBool>,
}

impl Counter {
    /// Starts counting: a hundred per second, less when the machine is slow. Never ends.
    pub fn start() -> io::Result<Counter> {
        let counter = Counter::default();
        let (counting, ticking) = (counter.clone(), counter.clone());
        thread::Builder::new()
            .name("counter".into())
            .spawn(move || {
                loop {
                    thread::sleep(Duration::from_millis(10));
                    counting.value.fetch_add(1, Ordering::SeqCst);
                }
            })?;
        thread::Builder::new().name("ticks".into()).spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                if ticking.ticking.load(Ordering::SeqCst) {
                    answer::send(&format!("@ tick {}", ticking.value()));
                }
            }
        })?;
        Ok(counter)
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::SeqCst)
    }

    /// Switches the line with the number that is sent every second.
    pub fn set_ticking(&self, on: bool) {
        self.ticking.store(on, Ordering::SeqCst);
    }
}

//! The guest's output between the vCPU that writes it and the event thread that carries it out.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backlog::Backlog;
use crate::lock::lock;

/// Bytes of the latest output that a new client of the console socket gets.
const SCROLLBACK_BYTES: usize = 64 << 10;
/// Bytes of output that may wait for the event thread before the oldest are dropped.
const FRESH_BYTES: usize = 1 << 20;

/// Output of the guest. All clones are the same output.
#[derive(Clone)]
pub struct ConsoleOut {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<EventFd>,
}

struct Shared {
    fresh: Backlog,
    scrollback: VecDeque<u8>,
    /// The event thread has been woken and has not looked yet.
    woken: bool,
}

impl ConsoleOut {
    /// An output that nothing was written to.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Self> {
        let shared = Shared {
            fresh: Backlog::new(FRESH_BYTES),
            scrollback: VecDeque::new(),
            woken: false,
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            wake: Arc::new(EventFd::new(EFD_NONBLOCK)?),
        })
    }

    /// The latest output, at most 64 KiB of it.
    pub fn scrollback(&self) -> Vec<u8> {
        lock(&self.shared).scrollback.iter().copied().collect()
    }

    /// Readable when there is output that was not taken yet.
    pub(super) fn wake_event(&self) -> &EventFd {
        &self.wake
    }

    /// Takes the output that came since the last call.
    pub(super) fn take_fresh(&self) -> Vec<u8> {
        self.take(&mut lock(&self.shared))
    }

    /// Gives the output that came since the last call to `deliver`, and answers the scroll-back
    /// that ends with it, so that a reader who starts with the scroll-back gets every byte
    /// once.
    pub(super) fn catch_up(&self, deliver: impl FnOnce(&[u8])) -> Vec<u8> {
        let mut shared = lock(&self.shared);
        let fresh = self.take(&mut shared);
        let scrollback = shared.scrollback.iter().copied().collect();
        drop(shared);
        deliver(&fresh);
        scrollback
    }

    fn take(&self, shared: &mut Shared) -> Vec<u8> {
        // The wake-up belongs to what is taken here: under the lock, no later one can be swallowed
        // with it.
        let _ = self.wake.read();
        shared.woken = false;
        shared.fresh.take()
    }
}

impl Write for ConsoleOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shared = lock(&self.shared);
        shared.fresh.push(bytes);
        shared.scrollback.extend(bytes);
        let excess = shared.scrollback.len().saturating_sub(SCROLLBACK_BYTES);
        shared.scrollback.drain(..excess);
        if !shared.woken {
            shared.woken = true;
            self.wake.write(1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

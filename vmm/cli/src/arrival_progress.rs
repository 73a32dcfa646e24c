//! Progress of memory that arrives, while a command waits for it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvvmm::VmError;
use nvvmm::control::registry::Entry;
use nvvmm::control::{ControlClient, VmStatus};

use super::progress::Progress;

/// Interval of looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows how much of a VM's memory has arrived, until it is dropped.
pub struct Shown {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to show it, if some of the memory has not arrived.
///
/// # Errors
/// The VM does not answer.
pub fn show(entry: &Entry, status: &VmStatus) -> Result<Option<Shown>, VmError> {
    let Some(arriving) = &status.arriving else {
        return Ok(None);
    };
    let mut vm = ControlClient::connect(&entry.paths.control)?;
    let mut shown = Progress::of_bytes("wait for memory")?;
    let total = arriving.lacking_bytes;
    let (stop, stopped) = channel();
    let thread = thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let Some(arriving) = vm.status().ok().and_then(|status| status.arriving) else {
                    return;
                };
                shown.show(total.saturating_sub(arriving.lacking_bytes), Some(total));
            }
        });
    let thread = thread.map_err(|e| VmError::io("show the progress", &e))?;
    Ok(Some(Shown {
        stop: Some(stop),
        thread: Some(thread),
    }))
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Ctrl-C and SIGTERM end what takes long in good order.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::ControlError;

/// Set by the first Ctrl-C; a second one kills the process as usual.
pub(super) fn ends_on_signal() -> Result<Arc<AtomicBool>, ControlError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|e| ControlError::io("watch for signals", &e))?;
    }
    Ok(interrupted)
}

/// Whether work goes on, as those who report their progress ask.
pub(super) fn unless(interrupted: &AtomicBool) -> ControlFlow<()> {
    match interrupted.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

//! The terminal in raw mode, and its way back however the process ends.

use std::io::{IsTerminal, stdin};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::control::ControlError;

/// The key that leaves a console: Ctrl-].
pub const ESCAPE_KEY: u8 = 0x1d;

/// The settings to go back to while the terminal is raw; global because a panic and a signal need them too.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// The terminal on stdin is raw until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal on stdin raw; `None` when stdin is no terminal.
    pub fn enter() -> Result<Option<Self>, ControlError> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |e: nix::Error| ControlError::io("switch the terminal to raw mode", &e.into());
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        PANIC_HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                leave_raw();
                usual(info);
            }));
        });
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        leave_raw();
    }
}

/// Gives the terminal back its settings; for ends of the process that run no destructor.
pub fn leave_raw() {
    if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone has no settings to go back to.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &before);
    }
}

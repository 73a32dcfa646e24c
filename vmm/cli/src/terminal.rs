//! The terminal in raw mode, its way back however the process ends, and lines for the user in
//! between.

use std::io::{self, IsTerminal, Write, stderr, stdin};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nvvmm::VmError;

/// The key that leaves a console: Ctrl-].
pub const ESCAPE_KEY: u8 = 0x1d;

/// The settings to go back to while the terminal is raw; global because a panic and a signal need
/// them too.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// The terminal on stdin is raw until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal on stdin raw; `None` when stdin is no terminal.
    pub fn enter() -> Result<Option<Self>, VmError> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |e: nix::Error| VmError::io("switch the terminal to raw mode", &e.into());
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

/// Writes text for the user to stderr; a raw terminal gets the carriage returns that it needs.
pub fn tell(text: &str) {
    // Nobody reads stderr: there is nobody to tell that either.
    let _ = StderrLines.write_all(text.as_bytes());
}

/// Stderr, with carriage returns while the terminal is raw.
#[derive(Clone, Copy, Debug, Default)]
pub struct StderrLines;

impl Write for StderrLines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let raw = SAVED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        let mut out = stderr().lock();
        if raw {
            out.write_all(&with_carriage_returns(text))?
        } else {
            out.write_all(text)?
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

fn with_carriage_returns(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + 2);
    for &byte in text {
        if byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(byte);
    }
    lines
}

#[cfg(test)]
#[path = "terminal_test.rs"]
mod terminal_test;

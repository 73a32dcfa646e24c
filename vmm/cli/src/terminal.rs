//! The terminal in raw mode, its way back however the process ends, and lines for the user in
//! between.
//!
//! Names, paths and errors may come from a guest, from a stream or from another host. Bytes in them
//! could move the cursor, change the title or forge a line. So all text goes to the terminal
//! through [`shown`], which is called at the output and nowhere else. The output of a guest's
//! console and programs is the exception: it goes there as it is.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nvvmm::VmError;
use nvvmm::sys::terminal::size_of;

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

/// Columns of the terminal on stdout, or what COLUMNS says.
pub fn columns() -> Option<usize> {
    let of_terminal = size_of(stdout().as_fd()).ok().map(|size| size.columns);
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    of_terminal
        .filter(|columns| *columns > 0)
        .or_else(said)
        .map(usize::from)
}

/// A terminal obeys `c` instead of showing it, or shows what follows in another order: control
/// characters but the end of a line and the tabulator, separators of lines, marks of direction.
pub fn is_obeyed(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => c.is_control(),
    }
}

/// `text` with an escape such as `\x1b` or `\u{202e}` for each character that a terminal obeys.
/// Text that has none stays as it is.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// The same as one line: ends of lines are escaped, too. For a cell of a table, and for a value in
/// a line.
pub fn shown_in_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) || c == '\n' || c == '\t')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a string does not fail.
        _ = match c {
            '\n' if is_escaped(c) => safe.write_str("\\n"),
            '\t' if is_escaped(c) => safe.write_str("\\t"),
            '\r' => safe.write_str("\\r"),
            c if is_escaped(c) && c.is_ascii() => write!(safe, "\\x{:02x}", u32::from(c)),
            c if is_escaped(c) => write!(safe, "\\u{{{:x}}}", u32::from(c)),
            c => safe.write_char(c),
        };
    }
    Cow::Owned(safe)
}

/// Writes text for the user to stderr; a raw terminal gets the carriage returns that it needs.
pub fn tell(text: &str) {
    // Nobody reads stderr: there is nobody to tell that either.
    let _ = StderrLines.write_all(text.as_bytes());
}

/// Writes `text` for the user to stderr behind a prefix of this program, which may have colours.
pub fn tell_after(prefix: &str, text: &str) {
    // Nobody reads stderr: there is nobody to tell that either.
    let _ = write_lines(prefix, text.as_bytes());
}

/// Stderr, with carriage returns while the terminal is raw, and without characters that a terminal
/// obeys. Each write is text as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct StderrLines;

impl Write for StderrLines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        write_lines("", text)
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

/// Writes all of `text`, escaped, in one write behind `prefix`. Returns the length of `text`.
fn write_lines(prefix: &str, text: &[u8]) -> io::Result<usize> {
    let raw = SAVED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some();
    let lossy = String::from_utf8_lossy(text);
    let safe = format!("{prefix}{}", shown(&lossy));
    let mut out = stderr().lock();
    if raw {
        out.write_all(&with_carriage_returns(safe.as_bytes()))?
    } else {
        out.write_all(safe.as_bytes())?
    }
    Ok(text.len())
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

//! Output of commands.

use std::io::{self, Write};
use std::sync::OnceLock;

use nvvmm::VmError;
use nvvmm::checkpoint::report::PhaseTime;
use serde::Serialize;

use super::terminal::{is_obeyed, shown};
pub use crate::human_units::{Column, fields, frames_size, lasting, moment, size, table, time_us};

/// `--verbose`: reports have all that is known.
static VERBOSE: OnceLock<bool> = OnceLock::new();

/// Decides how much reports have. The first call counts.
pub fn set_verbose(verbose: bool) {
    VERBOSE.get_or_init(|| verbose);
}

/// Tells if reports have more than one line.
pub fn is_verbose() -> bool {
    VERBOSE.get().copied().unwrap_or(false)
}

/// `line`, and with `--verbose` the lines of `more`.
pub fn report(line: &str, more: &str) -> String {
    match is_verbose() {
        true => format!("{line}\n{more}"),
        false => format!("{line}\n"),
    }
}

/// Prints text to stdout, escaped by [`shown`]. A reader that went away (`nvvmm ps | head -1`) is
/// not an error.
pub fn print(text: &str) -> Result<(), VmError> {
    let mut out = io::stdout().lock();
    match out
        .write_all(shown(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(VmError::io("write to stdout", &e)),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), VmError> {
    print(&json_text(value)?)
}

/// `value` as JSON, with a line's end. Characters in strings that a terminal obeys are in JSON's
/// own escaped form.
pub fn json_text(value: &impl Serialize) -> Result<String, VmError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| VmError::failed(format!("cannot write JSON: {e}")))?;
    text.push('\n');
    if text.contains(is_obeyed) {
        text = text.chars().map(json_char).collect();
    }
    Ok(text)
}

/// A character of a JSON document; one that a terminal obeys is in a string, and of 16 bits.
fn json_char(c: char) -> String {
    match is_obeyed(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    }
}

/// The phases of a snapshot or a restore, one per line.
pub fn phases(phases: &[PhaseTime]) -> String {
    let width = phases.iter().map(|p| p.phase.len()).max().unwrap_or(0);
    phases
        .iter()
        .map(|p| format!("  {:<width$}  {:>10}\n", p.phase, time_us(p.us)))
        .collect()
}

#[cfg(test)]
#[path = "output_test.rs"]
mod output_test;

//! Output of commands.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm::checkpoint::report::PhaseTime;
use serde::Serialize;

use super::error::{self, EXIT_USAGE};
use super::sys;
use super::terminal::{is_obeyed, shown};
pub use crate::human_units::{Column, fields, frames_size, lasting, moment, size, table, time_us};

/// Prints text to stdout, escaped by [`shown`]. A reader that went away (`nvvmm ps | head -1`) is
/// not an error.
pub fn print(text: &str) -> Result<(), VmError> {
    print_on(text).map(drop)
}

/// The same for a command that goes on printing. Breaks when the reader went away: nothing that is
/// printed later would be read.
pub fn print_on(text: &str) -> Result<ControlFlow<()>, VmError> {
    if !text.is_empty() {
        check_stdout()?;
    }
    let mut out = io::stdout().lock();
    match out
        .write_all(shown(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(VmError::io("write to stdout", &e)),
    }
}

/// Refuses to write to a stdout that was closed when the process started (`>&-`). The standard
/// library has opened /dev/null in its place, and what is written would vanish.
pub fn check_stdout() -> Result<(), VmError> {
    match sys::is_stdout_closed() {
        true => Err(VmError::failed("write to stdout: it is closed")
            .with_remedy("redirect it to a file, or to /dev/null")),
        false => Ok(()),
    }
}

/// Prints the help, the version or a usage error of the parser of arguments, and gives the exit
/// code.
pub fn print_usage(ended: &clap::Error) -> ExitCode {
    if ended.use_stderr() {
        // Nobody reads stderr: there is nobody to tell that either.
        let _ = ended.print();
        return EXIT_USAGE.into();
    }
    let written = check_stdout().and_then(|()| {
        let written = ended.print().and_then(|()| io::stdout().flush());
        match written {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(VmError::io("write to stdout", &e))
            }
            _ => Ok(()),
        }
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error::print(&error);
            error::exit_code(error.kind).into()
        }
    }
}

/// Writes bytes to stdout as they are, for another program.
pub fn print_bytes(bytes: &[u8]) -> Result<(), VmError> {
    check_stdout()?;
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(VmError::io("write to stdout", &e)),
        _ => Ok(()),
    }
}

/// Prints names, one on each line, for scripts.
pub fn print_names<N: AsRef<str>>(names: &[N]) -> Result<(), VmError> {
    let lines = names.iter().map(|name| format!("{}\n", name.as_ref()));
    print(&lines.collect::<String>())
}

/// Prints `value` as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), VmError> {
    print(&json_text(value)?)
}

/// Prints `value` as JSON on one line.
pub fn print_json_line(value: &impl Serialize) -> Result<(), VmError> {
    print(&json_line(value)?)
}

/// `value` as JSON on one line.
pub fn json_line(value: &impl Serialize) -> Result<String, VmError> {
    escaped(serde_json::to_string(value))
}

/// `value` as JSON, with a line's end. Characters in strings that a terminal obeys are in JSON's
/// own escaped form.
pub fn json_text(value: &impl Serialize) -> Result<String, VmError> {
    escaped(serde_json::to_string_pretty(value))
}

fn escaped(text: serde_json::Result<String>) -> Result<String, VmError> {
    let mut text = text.map_err(|e| VmError::failed(format!("cannot write JSON: {e}")))?;
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

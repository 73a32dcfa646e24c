//! How things are shown: tables, sizes, times, JSON. Nothing here writes colours or control characters.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nvvmm_snapshot::BLOCK_SIZE_BYTES;
use serde::Serialize;

use crate::checkpoint::report::PhaseTime;
use crate::control::ControlError;

/// Prints text to stdout. A reader that went away (`nvvmm ps | head -1`) is not an error.
pub fn print(text: &str) -> Result<(), ControlError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(ControlError::io("write to stdout", &e)),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), ControlError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| ControlError::failed(format!("cannot write JSON: {e}")))?;
    text.push('\n');
    print(&text)
}

/// A column of a table.
pub enum Column<'n> {
    /// Text, to the left.
    Text(&'n str),
    /// Numbers, to the right.
    Number(&'n str),
}

/// A table with headers and aligned columns, one line per row.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).force_no_tty();
    table.set_header(columns.iter().map(|c| match c {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(index) {
            shown.set_padding((0, 2));
            if matches!(column, Column::Number(_)) {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    lines_trimmed(&table.to_string())
}

/// `name: value` lines with the values aligned.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {value}\n");
    lines_trimmed(&fields.iter().map(line).collect::<String>())
}

fn lines_trimmed(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// A size: `512.0 MiB`, `4.0 KiB`, `0 B`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// The size of so many frames or blocks.
pub fn frames_size(frames: u64) -> String {
    size(frames.saturating_mul(BLOCK_SIZE_BYTES))
}

/// A measured time in the unit that fits: `812 µs`, `1.24 ms`, `3.41 s`.
pub fn time_us(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1_000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

/// How long something has lasted, in its two largest units: `3m 12s`, `2h 5m`, `0s`.
pub fn lasting(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A moment in UTC: `2026-11-22 13:40:39`.
pub fn moment(unix_ns: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_seconds(at)
        .to_string()
        .replace('T', " ")
        .trim_end_matches('Z')
        .to_owned()
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

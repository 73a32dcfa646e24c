//! Values in units for people: sizes, times, moments, tables. Plain text, without colours or
//! control characters.

use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use nvvmm_snapshot::BLOCK_SIZE_BYTES;

use super::terminal::shown_in_line;

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
        table.add_row(row.iter().map(|cell| shown_in_line(cell)));
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
    let line =
        |(name, value): &(&str, String)| format!("{name:<width$}  {}\n", shown_in_line(value));
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

/// A duration in its two largest units: `3m 12s`, `2h 5m`, `0s`.
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

#[cfg(test)]
#[path = "human_units_test.rs"]
mod human_units_test;

//! Numbers in sentences for people: sizes, and counts with the right plural.

use std::fmt;
use std::time::Duration;

/// Units of sizes, each 1024 of the one before.
const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A size in the unit that fits, with one decimal place where it is not whole: `512 MiB`,
/// `1.5 GiB`, `12 B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeText {
    bytes: u64,
    rounding: Rounding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Nearest,
    Up,
    Down,
}

impl SizeText {
    /// Rounded to the nearest.
    pub const fn of(bytes: u64) -> SizeText {
        SizeText {
            bytes,
            rounding: Rounding::Nearest,
        }
    }

    /// Rounded up. For bytes that are needed: they never look like the fewer that there are.
    pub const fn needed(bytes: u64) -> SizeText {
        SizeText {
            bytes,
            rounding: Rounding::Up,
        }
    }

    /// Rounded down. For bytes that there are.
    pub const fn left(bytes: u64) -> SizeText {
        SizeText {
            bytes,
            rounding: Rounding::Down,
        }
    }
}

impl fmt::Display for SizeText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = (UNITS.len() - 1).min(self.bytes.max(1).ilog2() as usize / 10);
        let one = 1u128 << (10 * unit);
        let tenths = u128::from(self.bytes) * 10;
        let tenths = match self.rounding {
            Rounding::Nearest => (tenths + one / 2) / one,
            Rounding::Up => tenths.div_ceil(one),
            Rounding::Down => tenths / one,
        };
        let (whole, tenth) = (tenths / 10, tenths % 10);
        match tenth {
            0 => write!(out, "{whole} {}", UNITS[unit]),
            _ => write!(out, "{whole}.{tenth} {}", UNITS[unit]),
        }
    }
}

/// A measured time in the unit that fits, with three digits at most before its decimal place:
/// `438 µs`, `2.1 ms`, `12.0 s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeText(pub Duration);

impl fmt::Display for TimeText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        match us {
            0..1_000 => write!(out, "{us} µs"),
            1_000..1_000_000 => write!(out, "{}.{} ms", us / 1_000, us / 100 % 10),
            _ => write!(out, "{}.{} s", us / 1_000_000, us / 100_000 % 10),
        }
    }
}

/// A number and what is counted: `1 snapshot`, `2 snapshots`, `0 processes`. `one` is the singular;
/// the plural follows English spelling (`chunk`, `process`, `entry`).
pub fn counted(number: impl Into<u64>, one: &str) -> String {
    let number = number.into();
    format!("{number} {}", plural(number, one))
}

/// The word for what is counted, without the number.
pub fn plural(number: u64, one: &str) -> String {
    if number == 1 {
        return one.to_owned();
    }
    let before_y = one.strip_suffix('y').filter(|stem| {
        let vowel = ['a', 'e', 'i', 'o', 'u'];
        !stem.ends_with(vowel)
    });
    match before_y {
        Some(stem) => format!("{stem}ies"),
        None if one.ends_with(['s', 'x']) || one.ends_with("ch") || one.ends_with("sh") => {
            format!("{one}es")
        }
        None => format!("{one}s"),
    }
}

/// The verb that goes with a number of things: `is` or `are`.
pub fn is_or_are(number: impl Into<u64>) -> &'static str {
    match number.into() {
        1 => "is",
        _ => "are",
    }
}

#[cfg(test)]
#[path = "wording_test.rs"]
mod wording_test;

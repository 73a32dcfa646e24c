//! The limit on log lines of a VM process.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines of one kind that are written at once, whatever their number before.
pub(super) const BURST: u32 = 16;
/// Time after which one more line of a kind may be written.
const ONE_EVERY: Duration = Duration::from_secs(10);
/// Longest line, in bytes: a guest has a say in what some of them contain.
pub(super) const LINE_BYTES_MAX: usize = 2048;

/// Lines of one kind: those that one place of the program writes.
struct Kind {
    /// Lines that may be written now.
    left: u32,
    /// Time at which `left` was last made larger.
    refilled: Instant,
    /// Lines that were left out since the last one that was written.
    left_out: u64,
}

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Admitted {
    /// Lines of its kind that were left out before it.
    left_out: u64,
    /// The next one of its kind is left out, if it comes soon.
    is_last: bool,
}

/// Counts lines by the name of their kind. There are as many kinds as places in the program.
struct Limiter<Name = Identifier> {
    kinds: Mutex<HashMap<Name, Kind>>,
}

impl<Name: Eq + Hash> Limiter<Name> {
    fn new() -> Self {
        Self {
            kinds: Mutex::new(HashMap::new()),
        }
    }

    /// `None`: the line is left out, and counted.
    fn admit(&self, kind: Name, now: Instant) -> Option<Admitted> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert(Kind {
            left: BURST,
            refilled: now,
            left_out: 0,
        });
        let passed = now.saturating_duration_since(kind.refilled);
        let more = u32::try_from(passed.as_nanos() / ONE_EVERY.as_nanos()).unwrap_or(u32::MAX);
        if more > 0 {
            kind.left = kind.left.saturating_add(more).min(BURST);
            kind.refilled = now;
        }
        let Some(left) = kind.left.checked_sub(1) else {
            kind.left_out += 1;
            return None;
        };
        kind.left = left;
        Some(Admitted {
            left_out: std::mem::take(&mut kind.left_out),
            is_last: left == 0,
        })
    }
}

/// Formats events as `F` does, and leaves out those that come too often.
pub(super) struct Limited<F> {
    format: F,
    limiter: Option<Limiter>,
}

impl<F> Limited<F> {
    pub(super) fn new(format: F, is_limited: bool) -> Self {
        Self {
            format,
            limiter: is_limited.then(Limiter::new),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    /// Writes nothing, which makes no line, for an event that is left out.
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(limiter) = &self.limiter else {
            return self.format.format_event(context, writer, event);
        };
        let Some(admitted) = limiter.admit(event.metadata().callsite(), Instant::now()) else {
            return Ok(());
        };
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(cut_off(line.trim_end_matches('\n')))?;
        if admitted.left_out > 0 {
            write!(writer, " ({} like it were left out)", admitted.left_out)?;
        }
        if admitted.is_last {
            write!(writer, " (more like it are left out for some seconds)")?;
        }
        writer.write_char('\n')
    }
}

/// At most [`LINE_BYTES_MAX`] of `line`.
fn cut_off(line: &str) -> &str {
    let fits = |end: &usize| line.is_char_boundary(*end);
    let end = (0..=LINE_BYTES_MAX.min(line.len())).rev().find(fits);
    &line[..end.unwrap_or_default()]
}

#[cfg(test)]
#[path = "limit_test.rs"]
mod limit_test;

//! Log lines for a person at a terminal: `nvvmm: warning: the kernel has no Landlock`.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::message::{MessageKind, prefix};

/// Formats an event as a message: its text, then its error, then its other fields in brackets.
pub(super) struct MessageLine {
    /// Name the module that it comes from.
    with_target: bool,
}

impl MessageLine {
    pub(super) fn new(with_target: bool) -> Self {
        Self { with_target }
    }
}

impl<S, N> FormatEvent<S, N> for MessageLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let kind = match *event.metadata().level() {
            Level::ERROR => MessageKind::Error,
            Level::WARN => MessageKind::Warning,
            _ => MessageKind::Note,
        };
        // Without colours: these lines are escaped where they are written.
        writer.write_str(&prefix(kind, false))?;
        if self.with_target {
            write!(writer, "{}: ", event.metadata().target())?;
        }
        let mut parts = Parts::default();
        event.record(&mut parts);
        let Parts {
            message,
            error,
            fields,
        } = parts;
        writer.write_str(&message)?;
        if !error.is_empty() {
            write!(writer, ": {error}")?;
        }
        if !fields.is_empty() {
            write!(writer, " ({fields})")?;
        }
        writer.write_char('\n')
    }
}

/// Parts of an event's text.
#[derive(Default)]
struct Parts {
    message: String,
    error: String,
    fields: String,
}

impl Parts {
    fn put(&mut self, name: &str, value: String) {
        match name {
            "message" => self.message = value,
            "error" | "errno" => self.error = nvvmm::error::without_os_numbers(value),
            name => {
                let comma = if self.fields.is_empty() { "" } else { ", " };
                // Writing to a string does not fail.
                let _ = write!(self.fields, "{comma}{} {value}", name.replace('_', " "));
            }
        }
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
#[path = "line_test.rs"]
mod line_test;

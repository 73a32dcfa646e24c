//! Log lines of this process: their way out, and how many there can be.
//!
//! A guest can cause some lines as often as it wants. A VM process writes a few of each kind in
//! full and counts the others ([`limit`]); in the background it writes to a file of bounded size
//! ([`file`]), with the time. Lines on a terminal look like all messages of this program
//! ([`line`]).

mod file;
mod limit;
mod line;

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use nvvmm::{ErrorKind, VmError};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

pub use self::file::{LOG_BYTES_MAX, LogFile};
use self::limit::Limited;
use self::line::MessageLine;
use super::terminal::shown;
use super::{detach, message};

/// The log of a VM process in the background.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// Log lines go to stderr: warnings, more with `-v`, or what `NVVMM_LOG` says. In a process that
/// `runs_vm` their number is limited.
///
/// # Errors
/// `NVVMM_LOG` is no filter.
pub fn start(verbose: u8, runs_vm: bool) -> Result<(), VmError> {
    let level = match verbose {
        0 if runs_vm && detach::is_child() => "nvvmm_life=info,warn",
        0 => "warn",
        1 => {
            "nvvmm_life=info,nvvmm=info,nvvmm_cli=info,nvvmm_snapshot=info,nvvmm_devices=info,warn"
        }
        2 => {
            "nvvmm_life=info,nvvmm=debug,nvvmm_cli=debug,nvvmm_snapshot=debug,\
             nvvmm_devices=debug,info"
        }
        _ => "trace",
    };
    let filter = match std::env::var("NVVMM_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).map_err(|e| {
                VmError::new(
                    ErrorKind::Usage,
                    format!("NVVMM_LOG='{directives}' is not a log filter: {e}"),
                )
                .with_remedy(
                    "use a level, for example info, or levels per module, for example \
                              nvvmm::cow=trace,info",
                )
            })?
        }
        _ => EnvFilter::new(level),
    };
    let format = tracing_subscriber::fmt::format();
    let format = ByPlace {
        in_file: format.with_target(verbose > 1).with_ansi(false),
        for_terminal: MessageLine::new(verbose > 1),
    };
    subscriber(filter, Limited::new(format, runs_vm), LogLines::default).init();
    Ok(())
}

/// Formats lines in the log file of a VM with their time, others as messages.
struct ByPlace {
    in_file: tracing_subscriber::fmt::format::Format,
    for_terminal: MessageLine,
}

impl<S, N> FormatEvent<S, N> for ByPlace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match FILE.get() {
            Some(_) => self.in_file.format_event(context, writer, event),
            None => self.for_terminal.format_event(context, writer, event),
        }
    }
}

/// From now on log lines go to this file. Once in a process.
pub fn go_to(file: LogFile) {
    // The first one stays: there is one VM in a process.
    let _ = FILE.set(file);
}

fn subscriber<W, F>(
    filter: EnvFilter,
    format: Limited<F>,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    Limited<F>: FormatEvent<Registry, DefaultFields> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false)
        // A log that cannot be written is no reason for more lines.
        .log_internal_errors(false)
        .event_format(format)
        .finish()
}

/// The log's present way out.
#[derive(Clone, Copy, Debug, Default)]
struct LogLines;

impl Write for LogLines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match FILE.get() {
            Some(file) => {
                // Somebody will look at it on a terminal.
                file.write_lines(shown(&String::from_utf8_lossy(text)).as_bytes());
                Ok(text.len())
            }
            None => {
                message::say_line(&String::from_utf8_lossy(text));
                Ok(text.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "log_test.rs"]
mod log_test;

//! Progress of long work, on stderr: a bar if that is a terminal, else a line now and
//! then.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use nvvmm::VmError;

use super::output;

/// Interval of lines. Shorter work prints nothing.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// Shows bytes as they are done.
pub struct Progress(Shown);

enum Shown {
    Bar {
        bar: ProgressBar,
        /// Style for the time when a total is known.
        with_total: Option<ProgressStyle>,
    },
    Lines(Lines<io::Stderr>),
}

impl Progress {
    /// For work on bytes; `word` says what is done to them.
    pub fn of_bytes(word: &'static str) -> Result<Self, VmError> {
        if !io::stderr().is_terminal() {
            return Ok(Self(Shown::Lines(Lines::new(
                word,
                io::stderr(),
                Instant::now(),
            ))));
        }
        let style = |shape: &str| {
            ProgressStyle::with_template(shape)
                .map_err(|e| VmError::failed(format!("the progress bar's template: {e}")))
        };
        let bar = ProgressBar::new(0)
            .with_style(style("{msg} {spinner} {binary_bytes}")?)
            .with_message(word);
        Ok(Self(Shown::Bar {
            bar,
            with_total: Some(style(
                "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left",
            )?),
        }))
    }

    /// So many bytes are done, of so many where that is known.
    pub fn show(&mut self, done: u64, total: Option<u64>) {
        match &mut self.0 {
            Shown::Bar { bar, with_total } => {
                if let Some(total) = total {
                    if let Some(style) = with_total.take() {
                        bar.set_style(style);
                    }
                    bar.set_length(total);
                }
                bar.set_position(done);
            }
            Shown::Lines(lines) => lines.show(done, total, Instant::now()),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar { bar, .. } = &self.0 {
            bar.finish_and_clear();
        }
    }
}

struct Lines<W> {
    word: &'static str,
    out: W,
    last: Instant,
}

impl<W: Write> Lines<W> {
    fn new(word: &'static str, out: W, now: Instant) -> Self {
        Self {
            word,
            out,
            last: now,
        }
    }

    fn show(&mut self, done: u64, total: Option<u64>, now: Instant) {
        if now - self.last < LINES_EVERY {
            return;
        }
        self.last = now;
        let of = total.map_or_else(String::new, |total| {
            let percent = (u128::from(done) * 100)
                .checked_div(u128::from(total))
                .unwrap_or(100);
            format!(" of {}, {percent}%", output::size(total))
        });
        // Nobody may be there to read it.
        let _ = writeln!(self.out, "{}: {}{of}", self.word, output::size(done));
    }
}

#[cfg(test)]
#[path = "progress_test.rs"]
mod progress_test;

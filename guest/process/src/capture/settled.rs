//! Captures processes whose descendants come and go.

use std::io;
use std::time::Duration;

use super::Captured;
use super::options::CaptureOptions;
use crate::error::{Error, Pid, Refusal};
use crate::freeze::Frozen;
use crate::pages::{PageSink, Taken};

/// Tries before a tree counts as one that does not come to rest.
const TRIES_MAX: u32 = 100;
/// The longest pause between two tries; each is a millisecond longer than the one before.
const PAUSE_MS_MAX: u64 = 20;
/// A refusal that was there in so many tries, one after the other, is no moment's.
const SAME_MAX: u32 = 8;

/// Freezes a process, with `options.tree` its descendants too, and captures it.
///
/// A shell that runs one short program after the other has, at most instants, a child that is just
/// about to end. When a descendant is gone before it stands still, or has ended and its parent
/// could not wait for it any more, all go on, and are frozen again a moment later.
pub fn freeze_and_capture(
    pid: Pid,
    options: CaptureOptions,
    sink: &mut dyn PageSink,
) -> Result<(Frozen, Captured), Error> {
    let mut sink = Noting {
        sink,
        has_taken: false,
    };
    let mut standing = Standing::default();
    for tried in 1..=TRIES_MAX {
        let error = match once(pid, options, &mut sink) {
            Ok(done) => return Ok(done),
            // The number of a thread, or of this process itself.
            Err(Error::Gone(_)) if !options.tree => return Err(Error::Gone(pid)),
            Err(error) => error,
        };
        match error {
            // The sink has pages with numbers that another try would give to others.
            error if sink.has_taken || !options.tree => return Err(error),
            Error::Gone(gone) if gone == pid => return Err(Error::Gone(pid)),
            Error::Gone(_) => {}
            Error::Refused(refusals) => {
                if let Some(lasting) = standing.add(refusals) {
                    return Err(Error::Refused(lasting));
                }
            }
            error => return Err(error),
        }
        std::thread::sleep(Duration::from_millis(u64::from(tried).min(PAUSE_MS_MAX)));
    }
    Err(Error::Restless {
        pid,
        tries: TRIES_MAX,
    })
}

fn once(
    pid: Pid,
    options: CaptureOptions,
    sink: &mut dyn PageSink,
) -> Result<(Frozen, Captured), Error> {
    let frozen = Frozen::new(pid, options.tree)?;
    let captured = frozen.capture(options, sink)?;
    Ok((frozen, captured))
}

/// Refusals that were the same in the last tries.
#[derive(Debug, Default)]
struct Standing {
    refusals: Vec<Refusal>,
    tries: u32,
}

impl Standing {
    /// Adds the refusals of a try. Answers those that last.
    fn add(&mut self, now: Vec<Refusal>) -> Option<Vec<Refusal>> {
        self.refusals.retain(|refusal| now.contains(refusal));
        if self.refusals.is_empty() {
            *self = Self {
                refusals: now,
                tries: 0,
            };
        }
        self.tries += 1;
        (self.tries >= SAME_MAX).then(|| std::mem::take(&mut self.refusals))
    }
}

/// A sink, and if it was given anything.
struct Noting<'a> {
    sink: &'a mut dyn PageSink,
    has_taken: bool,
}

impl PageSink for Noting<'_> {
    fn take(&mut self, process: Pid, pages: &[Taken]) -> io::Result<()> {
        self.has_taken = true;
        self.sink.take(process, pages)
    }
}

#[cfg(test)]
#[path = "settled_test.rs"]
mod settled_test;

use std::io;

use nvvmm_process::{Error, PageSink, PageSource, Pid, Placed, Taken};
use nvvmm_protocol::{FrameRun, Frames, FromAgent, RUNS_MAX, send};

use super::answers::{failure, wait_until_done};
use crate::stream::{Failure, Stream};

/// Runs of frames, each with its first frame and its length, as messages have them.
pub fn messages_of(runs: &[(u64, u64)]) -> impl Iterator<Item = Vec<Frames>> {
    runs.chunks(RUNS_MAX).map(|part| {
        let frames = part.iter().filter_map(|(gfn, count)| {
            let count = u32::try_from(*count).ok()?;
            Some(Frames { gfn: *gfn, count })
        });
        frames.collect()
    })
}

/// Pages that the host takes from frames, or places in frames. In a guest a frame's number (PFN) is
/// its guest-physical address divided by the size of a page.
pub struct HostPages<'a, S> {
    stream: &'a mut S,
    failure: Option<Failure>,
    /// Number of pages that were named to the host.
    pub sent: u64,
}

impl<'a, S: Stream> HostPages<'a, S> {
    pub fn new(stream: &'a mut S) -> Self {
        Self {
            stream,
            failure: None,
            sent: 0,
        }
    }

    /// Names frames of which some will be named again, with pages.
    pub fn announce(&mut self, frames: &[(u64, u64)]) -> Result<(), Failure> {
        for part in messages_of(frames) {
            send(&mut *self.stream, &FromAgent::Ahead(part))?;
            wait_until_done(self.stream)?;
        }
        Ok(())
    }

    /// The outcome of a capture or restart with these pages. A failure of the host counts before
    /// the errors that followed from it.
    pub fn outcome<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Failure> {
        outcome.map_err(|error| self.failure.take().unwrap_or_else(|| failure(&error)))
    }

    fn hand_over(&mut self, runs: impl Iterator<Item = (u64, u64, u64)>) -> io::Result<()> {
        let mut message = Vec::new();
        for (gfn, pages, image_page) in runs {
            let mut done = 0;
            while done < pages {
                let part = u32::try_from(pages - done).unwrap_or(u32::MAX);
                message.push(FrameRun {
                    gfn: gfn + done,
                    pages: part,
                    image_page: image_page + done,
                });
                done += u64::from(part);
                if message.len() == RUNS_MAX {
                    self.say(std::mem::take(&mut message))?;
                }
            }
            self.sent += pages;
        }
        if message.is_empty() {
            return Ok(());
        }
        self.say(message)
    }

    fn say(&mut self, runs: Vec<FrameRun>) -> io::Result<()> {
        let said = send(&mut *self.stream, &FromAgent::Frames(runs)).map_err(Failure::from);
        said.and_then(|()| wait_until_done(self.stream))
            .map_err(|failure| {
                self.failure = Some(failure);
                io::Error::other("the host did not complete its part")
            })
    }
}

impl<S: Stream> PageSink for HostPages<'_, S> {
    fn take(&mut self, _: Pid, pages: &[Taken]) -> io::Result<()> {
        self.hand_over(
            pages
                .iter()
                .map(|run| (run.frame, run.pages, run.image_page)),
        )
    }
}

impl<S: Stream> PageSource for HostPages<'_, S> {
    fn wants_frames(&self) -> bool {
        true
    }

    fn place(&mut self, _: Pid, pages: &[Placed]) -> io::Result<()> {
        let runs: Option<Vec<_>> = pages
            .iter()
            .map(|run| Some((run.frame?, run.pages, run.image_page)))
            .collect();
        self.hand_over(runs.ok_or(io::ErrorKind::InvalidInput)?.into_iter())
    }
}

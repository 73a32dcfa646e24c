//! Finds the pages that processes have of their own, and the frames that they are in now.

use std::collections::HashSet;

use super::ranges::Ranges;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, Pid, failed};
use crate::image::{Mapping, PageRun, Process};
use crate::inject::Memory;
use crate::observe::{FrameRun, Listing, Pagemap, Pages};
use crate::pages::{PageSink, Taken};

/// The most listings of pages before the capture gives up.
const ROUNDS_MAX: u32 = 64;

/// A process whose pages are taken, or a part of its memory.
#[derive(Debug)]
pub struct Owner {
    pid: Pid,
    /// Start, end, and the pages that are taken in between.
    areas: Vec<(u64, u64, Pages)>,
    last: Listing,
    /// The image's number of each page, by address in pages.
    numbers: Ranges,
}

impl Owner {
    pub fn new(pid: Pid, areas: Vec<(u64, u64, Pages)>) -> Self {
        Self {
            pid,
            areas,
            last: Listing::default(),
            numbers: Ranges::default(),
        }
    }

    /// The pages of a process of its own. The mappings that begin at `of_windows` are of a window:
    /// what was not written of them is in its frames.
    pub fn of(process: &Process, of_windows: &HashSet<u64>) -> Self {
        // Shared memory belongs to its file. Memory that may be dropped is dropped.
        let mappings = process.mappings.iter();
        let own = mappings.filter(|mapping| mapping.what.is_private());
        let areas = own.map(|mapping| {
            let pages = match of_windows.contains(&mapping.start) {
                true => Pages::OfWindow,
                false => Pages::Own,
            };
            (mapping.start, mapping.end, pages)
        });
        Self::new(process.pid, areas.collect())
    }

    /// The pages that were taken between two addresses.
    pub fn pages(&self, start: u64, end: u64) -> Vec<PageRun> {
        let found = self.numbers.within(start / PAGE_BYTES, end / PAGE_BYTES);
        let run = |(page, pages, image_page)| PageRun {
            address: page * PAGE_BYTES,
            pages,
            image_page,
        };
        found.map(run).collect()
    }

    /// Writes down for each mapping which pages of it the image has.
    pub fn describe(&self, process: &mut Process) {
        for mapping in &mut process.mappings {
            mapping.pages = self.pages(mapping.start, mapping.end);
            let guards = self.last.guards.iter();
            let guards = guards.filter(|(start, pages)| {
                *start < mapping.end && start + pages * PAGE_BYTES > mapping.start
            });
            mapping.guards = guards
                .map(|(start, pages)| clip(mapping, *start, *pages))
                .collect();
        }
    }

    fn list(&self, pagemap: &mut Pagemap) -> Result<Listing, Error> {
        pagemap.go_on_with(self.pid)?;
        let mut listing = Listing::default();
        for (start, end, pages) in &self.areas {
            pagemap.list(*start, *end, *pages, &mut listing)?;
        }
        Ok(listing)
    }

    /// Has pages read that are not there. Writing would give them frames that they do not need.
    fn bring_back(&self) -> Result<(), Error> {
        if self.last.absent.is_empty() {
            return Ok(());
        }
        let memory = Memory::open(self.pid)?;
        let mut absent = self.last.absent.iter();
        absent.try_for_each(|address| memory.read(*address, &mut [0]))
    }
}

/// Hands pages of processes to the sink, until none moved while it was handed over. Memory that a
/// fork shares is handed over once. Answers the number of pages of the image, and how often the
/// pages were listed.
///
/// Pages of two processes that are in one frame have one number. Both were there before it was
/// handed over and are there afterwards, so they were there at the same time.
pub fn take(owners: &mut [Owner], sink: &mut dyn PageSink) -> Result<(u64, u32), Error> {
    let mut numbering = Numbering {
        next: 0,
        shares: owners.len() > 1,
        by_frame: Ranges::default(),
    };
    let mut pagemap = Pagemap::open(owners.first().map_or(0, |owner| owner.pid))?;
    for round in 1..=ROUNDS_MAX {
        let (mut moved, mut is_done) = (Vec::new(), true);
        for owner in owners.iter_mut() {
            let now = owner.list(&mut pagemap)?;
            moved.push(difference(&owner.last.runs, &now.runs));
            is_done &= now == owner.last && now.absent.is_empty();
            owner.last = now;
        }
        if is_done {
            return Ok((numbering.next, round));
        }
        numbering.by_frame = Ranges::default();
        for (owner, moved) in owners.iter_mut().zip(moved) {
            owner.bring_back()?;
            let number = |run| numbering.number(run, &mut owner.numbers);
            let taken: Vec<Taken> = moved.iter().flat_map(number).collect();
            if !taken.is_empty() {
                let pid = owner.pid;
                sink.take(pid, &taken)
                    .map_err(failed(format!("take pages of process {pid}")))?;
            }
        }
    }
    Err(Error::Unstable {
        pid: owners.first().map_or(0, |owner| owner.pid),
        rounds: ROUNDS_MAX,
    })
}

/// The pages that are in other frames than before, or were not there.
fn difference(before: &[FrameRun], now: &[FrameRun]) -> Vec<FrameRun> {
    let mut moved: Vec<FrameRun> = Vec::new();
    let mut at = 0;
    for run in now {
        for index in 0..run.pages {
            let (address, frame) = (run.address + index * PAGE_BYTES, run.frame + index);
            while before
                .get(at)
                .is_some_and(|old| old.address + old.pages * PAGE_BYTES <= address)
            {
                at += 1;
            }
            let old = before.get(at).filter(|old| old.address <= address);
            if old.map(|old| old.frame + (address - old.address) / PAGE_BYTES) == Some(frame) {
                continue;
            }
            match moved.last_mut() {
                Some(last)
                    if last.address + last.pages * PAGE_BYTES == address
                        && last.frame + last.pages == frame =>
                {
                    last.pages += 1;
                }
                _ => moved.push(FrameRun {
                    address,
                    frame,
                    pages: 1,
                }),
            }
        }
    }
    moved
}

/// Gives pages their numbers in the image.
#[derive(Debug)]
struct Numbering {
    next: u64,
    /// There are several processes, whose pages may be in one frame.
    shares: bool,
    /// Numbers that were given in this round, by frame.
    by_frame: Ranges,
}

impl Numbering {
    /// Gives each page of the run a number. Answers those that are to be handed over.
    ///
    /// A page of a single process that moved keeps its number. Among several processes it gets a
    /// new one: what shared the number may not share the page.
    fn number(&mut self, run: &FrameRun, numbers: &mut Ranges) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut done = 0;
        while done < run.pages {
            let (page, frame) = (run.address / PAGE_BYTES + done, run.frame + done);
            let (found, length) = match self.shares {
                true => self.by_frame.find(frame),
                false => numbers.find(page),
            };
            let pages = length.min(run.pages - done);
            let image_page = found.unwrap_or(self.next);
            if found.is_none() {
                self.next += pages;
                if self.shares {
                    self.by_frame.set(frame, pages, image_page);
                }
            }
            if found.is_none() || self.shares {
                numbers.set(page, pages, image_page);
            }
            if found.is_none() || !self.shares {
                taken.push(Taken {
                    address: page * PAGE_BYTES,
                    frame,
                    image_page,
                    pages,
                });
            }
            done += pages;
        }
        taken
    }
}

/// The part of a run that is in the mapping: its address and its pages.
fn clip(mapping: &Mapping, start: u64, pages: u64) -> (u64, u64) {
    let from = start.max(mapping.start);
    let to = (start + pages * PAGE_BYTES).min(mapping.end);
    (from, (to - from) / PAGE_BYTES)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;

//! Finds the pages that a process has of its own, and the frames that they are in now.

use std::collections::{BTreeMap, HashSet};

use crate::arch::PAGE_BYTES;
use crate::error::{Error, failed};
use crate::image::{Mapped, Mapping, PageRun, Process};
use crate::inject::Memory;
use crate::observe::{FrameRun, Listing, Pagemap};
use crate::pages::{PageSink, Taken};

/// The most listings of pages before the capture gives up.
const ROUNDS_MAX: u32 = 64;

/// Hands a process's pages to the sink, each with a number of its own from `next` on, until none
/// moved while it was handed over. Says how often they were listed. The mappings that begin at
/// `of_windows` are of a window: what was not written of them is in its frames.
pub fn take(
    process: &mut Process,
    of_windows: &HashSet<u64>,
    next: &mut u64,
    sink: &mut dyn PageSink,
) -> Result<u32, Error> {
    let memory = Memory::open(process.pid)?;
    let mut pagemap = Pagemap::open(process.pid)?;
    let mut numbers = Numbers {
        next: *next,
        known: BTreeMap::new(),
    };
    let mut last = Listing::default();
    for round in 1..=ROUNDS_MAX {
        let now = list(process, of_windows, &mut pagemap)?;
        if now == last && now.absent.is_empty() {
            *next = numbers.next;
            set_pages(process, &numbers, &now);
            return Ok(round);
        }
        // Reading is enough to bring a page back. Writing would give it a frame that it does not
        // need.
        for address in &now.absent {
            memory.read(*address, &mut [0])?;
        }
        let moved = difference(&last.runs, &now.runs);
        let taken: Vec<Taken> = moved.iter().flat_map(|run| numbers.number(run)).collect();
        if !taken.is_empty() {
            sink.take(process.pid, &taken)
                .map_err(failed(format!("take pages of process {}", process.pid)))?;
        }
        last = now;
    }
    Err(Error::Unstable {
        pid: process.pid,
        rounds: ROUNDS_MAX,
    })
}

fn list(
    process: &Process,
    of_windows: &HashSet<u64>,
    pagemap: &mut Pagemap,
) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for mapping in &process.mappings {
        // Shared memory belongs to its file. Memory that may be dropped is dropped.
        let (start, end) = (mapping.start, mapping.end);
        if of_windows.contains(&start) {
            pagemap.list_of_window(start, end, &mut listing)?;
        } else if matches!(mapping.what, Mapped::Anonymous | Mapped::PrivateFile { .. }) {
            pagemap.list(start, end, &mut listing)?;
        }
    }
    Ok(listing)
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

/// The numbers that a process's pages have in the image.
#[derive(Debug)]
struct Numbers {
    next: u64,
    /// By address: pages, the number of the first one.
    known: BTreeMap<u64, (u64, u64)>,
}

impl Numbers {
    /// Gives each page of the run the number that it has, or a new one.
    fn number(&mut self, run: &FrameRun) -> Vec<Taken> {
        let mut taken = Vec::new();
        let end = run.address + run.pages * PAGE_BYTES;
        let mut address = run.address;
        while address < end {
            let before = self
                .known
                .range(..=address)
                .next_back()
                .map(|(start, (pages, number))| (*start, *pages, *number));
            let inside = before.filter(|(start, pages, _)| address < start + pages * PAGE_BYTES);
            let (stop, image_page) = match inside {
                Some((start, pages, number)) => (
                    start + pages * PAGE_BYTES,
                    number + (address - start) / PAGE_BYTES,
                ),
                None => {
                    let stop = self
                        .known
                        .range(address..)
                        .next()
                        .map_or(end, |(start, _)| *start)
                        .min(end);
                    (
                        stop,
                        self.add(address, (stop - address) / PAGE_BYTES, before),
                    )
                }
            };
            let pages = (stop.min(end) - address) / PAGE_BYTES;
            let frame = run.frame + (address - run.address) / PAGE_BYTES;
            taken.push(Taken {
                address,
                frame,
                image_page,
                pages,
            });
            address += pages * PAGE_BYTES;
        }
        taken
    }

    fn add(&mut self, address: u64, pages: u64, before: Option<(u64, u64, u64)>) -> u64 {
        let number = self.next;
        self.next += pages;
        match before {
            Some((start, count, first))
                if start + count * PAGE_BYTES == address && first + count == number =>
            {
                self.known.insert(start, (count + pages, first));
            }
            _ => {
                self.known.insert(address, (pages, number));
            }
        }
        number
    }
}

/// Writes down for each mapping which pages of it the image has.
fn set_pages(process: &mut Process, numbers: &Numbers, listing: &Listing) {
    for mapping in &mut process.mappings {
        let runs = numbers.known.range(..mapping.end).rev();
        let runs =
            runs.take_while(|(start, (pages, _))| *start + pages * PAGE_BYTES > mapping.start);
        mapping.pages = runs
            .map(|(start, (pages, number))| {
                let (address, pages, skipped) = clip(mapping, *start, *pages);
                PageRun {
                    address,
                    pages,
                    image_page: number + skipped,
                }
            })
            .collect();
        mapping.pages.reverse();
        let guards = listing.guards.iter();
        let guards = guards.filter(|(start, pages)| {
            *start < mapping.end && start + pages * PAGE_BYTES > mapping.start
        });
        mapping.guards = guards
            .map(|(start, pages)| clip(mapping, *start, *pages))
            .map(|(start, pages, _)| (start, pages))
            .collect();
    }
}

/// The part of a run that is in the mapping: its address, its pages, and how many of the run come
/// before.
fn clip(mapping: &Mapping, start: u64, pages: u64) -> (u64, u64, u64) {
    let from = start.max(mapping.start);
    let to = (start + pages * PAGE_BYTES).min(mapping.end);
    (from, (to - from) / PAGE_BYTES, (from - start) / PAGE_BYTES)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;

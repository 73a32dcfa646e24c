//! Memory that a stub has from its parent: pages that both have in common are not placed again.
//!
//! A stub is forked when its parent's memory is there. It keeps what the image has at the same
//! addresses, with the same pages, and gives up the rest. Each mapping is one again, or is made
//! anew: a process may move it or let it grow as a whole (mremap(2)).

use crate::arch::PAGE_BYTES;
use crate::error::Error;
use crate::image::{Advice, Mapped, Mapping, PageRun, Process};
use crate::pages::Placed;

use super::blank::Blank;

const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The memory of a stub, as it was forked.
#[derive(Debug, Default)]
pub struct Inherited<'a> {
    /// For each mapping of the process, the one of its parent that it goes on with.
    parts: Vec<Option<&'a Mapping>>,
}

impl<'a> Inherited<'a> {
    /// Chooses what the process keeps of its parent's memory.
    pub fn choose(process: &Process, parent: &'a Process) -> Self {
        let of = |mapping: &Mapping| {
            let mut mappings = parent.mappings.iter();
            mappings.find(|known| can_go_on(process, mapping, parent, known))
        };
        Self {
            parts: process.mappings.iter().map(of).collect(),
        }
    }

    /// The addresses that are kept.
    pub fn kept(&self, process: &Process) -> Vec<(u64, u64)> {
        let parts = process.mappings.iter().zip(&self.parts);
        parts
            .filter_map(|(mapping, of)| of.map(|of| (mapping.start, mapping.end.min(of.end))))
            .collect()
    }

    /// The mapping of its parent that this one, by its index, goes on with.
    pub fn of(&self, index: usize) -> Option<&'a Mapping> {
        self.parts.get(index).copied().flatten()
    }
}

/// Makes memory that a stub has kept a mapping of the image: its size, its protection while pages
/// are placed, and nothing but pages that both have.
pub fn adapt(blank: &Blank, mapping: &Mapping, of: &Mapping) -> Result<(), Error> {
    let len = mapping.end - mapping.start;
    if mapping.end > of.end {
        // Memory of a reserve is in several pieces, so this is about the last page.
        let grown = PAGE_BYTES + (mapping.end - of.end);
        let arguments = [of.end - PAGE_BYTES, PAGE_BYTES, grown, 0];
        blank.call("let memory grow", libc::SYS_mremap, &arguments)?;
    }
    if mapping.protection != of.protection {
        let protection = (mapping.protection | WRITABLE) as u64;
        let arguments = [mapping.start, len, protection];
        blank.call("protect memory", libc::SYS_mprotect, &arguments)?;
    }
    for run in without(&of.pages, &mapping.pages) {
        let start = run.address.max(mapping.start);
        let end = (run.address + run.pages * PAGE_BYTES).min(mapping.end);
        if start < end {
            let arguments = [start, end - start, libc::MADV_DONTNEED as u64];
            blank.call("give memory back", libc::SYS_madvise, &arguments)?;
        }
    }
    Ok(())
}

/// The pages that a mapping lacks when it goes on with one of the parent.
pub fn lacking(mapping: &Mapping, of: Option<&Mapping>) -> Vec<Placed> {
    match of {
        Some(of) => without(&mapping.pages, &of.pages),
        None => mapping.pages.iter().map(Placed::from).collect(),
    }
}

fn can_go_on(process: &Process, mapping: &Mapping, parent: &Process, of: &Mapping) -> bool {
    let is_inside = of.start <= mapping.start && mapping.start < of.end;
    let grows = mapping.end > of.end;
    let same_memory = match (&mapping.what, &of.what) {
        (Mapped::Anonymous, Mapped::Anonymous) => {
            !grows || !mapping.advice.contains(&Advice::GrowsDown)
        }
        (
            Mapped::PrivateFile { file, offset },
            Mapped::PrivateFile {
                file: of_file,
                offset: of_offset,
            },
        ) => {
            let same_file = process.mapped_files.get(*file as usize)
                == parent.mapped_files.get(*of_file as usize);
            let begins = of_offset.wrapping_add(mapping.start.wrapping_sub(of.start));
            same_file && *offset == begins && !grows
        }
        (
            Mapped::PrivateHeld { held, offset },
            Mapped::PrivateHeld {
                held: of_held,
                offset: of_offset,
            },
        ) => {
            let begins = of_offset.wrapping_add(mapping.start.wrapping_sub(of.start));
            held == of_held && *offset == begins && !grows
        }
        _ => false,
    };
    is_inside
        && same_memory
        && lasting(mapping).eq(lasting(of))
        && !of.advice.contains(&Advice::DontFork)
        && !of.advice.contains(&Advice::WipeOnFork)
        && has_in_common(mapping, of)
}

/// Advice that a child has from its parent.
fn lasting(mapping: &Mapping) -> impl Iterator<Item = &Advice> {
    let of_one = |advice: &&Advice| {
        matches!(
            advice,
            Advice::Locked | Advice::LockedOnFault | Advice::Mergeable
        )
    };
    mapping.advice.iter().filter(move |advice| !of_one(advice))
}

fn has_in_common(mapping: &Mapping, of: &Mapping) -> bool {
    let left: u64 = without(&mapping.pages, &of.pages)
        .iter()
        .map(|run| run.pages)
        .sum();
    left < mapping.pages.iter().map(|run| run.pages).sum()
}

/// The pages of some runs but those that others have at the same address, with the same number.
/// All runs are by address.
fn without(runs: &[PageRun], others: &[PageRun]) -> Vec<Placed> {
    let end_of = |run: &PageRun| run.address + run.pages * PAGE_BYTES;
    let mut left = Vec::new();
    for run in runs {
        let mut add = |from: u64, to: u64| {
            if from < to {
                let skipped = (from - run.address) / PAGE_BYTES;
                left.push(Placed {
                    address: from,
                    image_page: run.image_page + skipped,
                    pages: (to - from) / PAGE_BYTES,
                    frame: None,
                });
            }
        };
        let mut at = run.address;
        let first = others.partition_point(|other| end_of(other) <= run.address);
        let near = others[first..].iter();
        for other in near.take_while(|other| other.address < end_of(run)) {
            // Number less address is the same for all pages of a run.
            let base = |run: &PageRun| run.image_page.wrapping_sub(run.address / PAGE_BYTES);
            if base(run) == base(other) {
                add(at, other.address.max(at));
                at = at.max(end_of(other).min(end_of(run)));
            }
        }
        add(at, end_of(run));
    }
    left
}

#[cfg(test)]
#[path = "inherited_test.rs"]
mod inherited_test;

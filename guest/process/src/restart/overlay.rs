//! Long runs of pages, mapped privately from a file that holds the image.
//!
//! Such memory costs nothing until it is written. But it is not quite anonymous. After
//! MADV_DONTNEED the image's content comes back. It cannot be freed lazily (MADV_FREE). It grows by
//! mremap(2) into the pages that follow in the file.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::advice::advise_range;
use super::fetch::Fetch;
use super::stubs::Stub;
use crate::arch::PAGE_BYTES;
use crate::error::Error;
use crate::image::{Advice, Mapped, Mapping};

/// A shorter run is not worth a mapping of its own.
const RUN_PAGES_MIN: u64 = 16;
/// Each run may cost two mappings, and a process may have 65,530 as the kernel sets it.
const RUNS_MAX: usize = 16_384;

/// Maps the long runs of anonymous memory from `file`; the addresses of those runs.
pub fn map(stub: &Stub, fetch: &Fetch, file: BorrowedFd<'_>) -> Result<HashSet<u64>, Error> {
    let mut done = HashSet::new();
    let least = least_pages(&stub.process.mappings);
    let window = fetch.get(&stub.blank, file.as_raw_fd())?;
    for mapping in stub
        .process
        .mappings
        .iter()
        .filter(|mapping| can_be_of_a_file(mapping))
    {
        let mut flags = libc::MAP_FIXED | libc::MAP_PRIVATE;
        if mapping.advice.contains(&Advice::NoReserve) {
            flags |= libc::MAP_NORESERVE;
        }
        for run in mapping.pages.iter().filter(|run| run.pages >= least) {
            let arguments = [
                run.address,
                run.pages * PAGE_BYTES,
                mapping.protection as u64,
                flags as u64,
                window,
                run.image_page * PAGE_BYTES,
            ];
            stub.call("map memory from the window", libc::SYS_mmap, &arguments)?;
            advise_range(
                &stub.blank,
                mapping,
                run.address,
                run.address + run.pages * PAGE_BYTES,
            )?;
            done.insert(run.address);
        }
    }
    stub.call("close a descriptor", libc::SYS_close, &[window])?;
    Ok(done)
}

/// Memory of other kinds is copied: what a file cannot be, and what would be copied at once.
fn can_be_of_a_file(mapping: &Mapping) -> bool {
    let cannot = |advice: &Advice| {
        matches!(
            advice,
            Advice::GrowsDown
                | Advice::WipeOnFork
                | Advice::Locked
                | Advice::LockedOnFault
                | Advice::Mergeable
        )
    };
    mapping.what == Mapped::Anonymous && !mapping.advice.iter().any(cannot)
}

/// The least length of a run, in pages, so that there are not too many runs.
fn least_pages(mappings: &[Mapping]) -> u64 {
    let runs: Vec<u64> = mappings
        .iter()
        .filter(|mapping| can_be_of_a_file(mapping))
        .flat_map(|mapping| &mapping.pages)
        .map(|run| run.pages)
        .collect();
    let mut least = RUN_PAGES_MIN;
    while runs.iter().filter(|pages| **pages >= least).count() > RUNS_MAX {
        least *= 2;
    }
    least
}

//! Advice to the kernel on memory of a stub (madvise(2)).

use super::blank::Blank;
use crate::error::Error;
use crate::image::{Advice, Mapped, Mapping};

/// Gives pages to memory as if it were written; libc does not have it for all its targets.
pub const MADV_POPULATE_WRITE: u64 = 23;

/// Makes a stub call madvise(2).
pub fn advise(blank: &Blank, start: u64, len: u64, advice: u64) -> Result<(), Error> {
    blank
        .call("advise memory", libc::SYS_madvise, &[start, len, advice])
        .map(drop)
}

/// Gives the advice that must come before the pages, for a mapping's part from `start` to `end`.
pub fn advise_range(blank: &Blank, mapping: &Mapping, start: u64, end: u64) -> Result<(), Error> {
    for advice in &mapping.advice {
        let value = match advice {
            Advice::GrowsDown | Advice::NoReserve => continue,
            Advice::Locked | Advice::LockedOnFault | Advice::Mergeable => continue,
            // Droppable memory has these properties anyway.
            Advice::WipeOnFork | Advice::DontDump if mapping.what == Mapped::Droppable => continue,
            Advice::DontFork => libc::MADV_DONTFORK,
            Advice::WipeOnFork => libc::MADV_WIPEONFORK,
            Advice::DontDump => libc::MADV_DONTDUMP,
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::Sequential => libc::MADV_SEQUENTIAL,
            Advice::Random => libc::MADV_RANDOM,
        };
        let arguments = [start, end - start, value as u64];
        blank.call(
            &format!("advise memory ({advice:?})"),
            libc::SYS_madvise,
            &arguments,
        )?;
    }
    Ok(())
}

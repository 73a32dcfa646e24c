//! Memory that can prove that it is of one instant.
//!
//! The memory is cut into parts. A part is rewritten page after page, in order, round after round,
//! each page with one epoch more than before. So at any instant every page before a part's cursor
//! has the part's epoch, and every page from the cursor on has one less. A restored copy whose
//! pages come from different instants breaks that rule.
//!
//! The page being rewritten at the instant of a snapshot is completed by the restored copy's own
//! writer. That leaves no gap: the writer checks every page before it overwrites it, and again
//! after it has written it.

use crate::page::{Label, PAGE_SIZE_BYTES, Page, mix};
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Pages that are rewritten between two checks of the stop flag. A throttled writer writes as many
/// at a time.
const BURST_PAGES: usize = 64;

/// Pages of a MiB.
pub const PAGES_PER_MIB: usize = (1 << 20) / PAGE_SIZE_BYTES;

/// Memory under test; cloned handles are the same memory.
#[derive(Clone)]
pub struct Memory {
    parts: Arc<[Mutex<Part>]>,
    seed: u64,
    writing: Arc<AtomicBool>,
    damaged_pages: Arc<AtomicU64>,
}

struct Part {
    pages: Vec<Page>,
    seed: u64,
    /// Index of the part's first page within the whole memory.
    first: u64,
    /// Next page to rewrite.
    cursor: usize,
    /// Epoch of the pages before the cursor.
    epoch: u64,
    damage: Option<String>,
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub struct Findings {
    /// Pages looked at.
    pub pages: usize,
    /// Seed of the fill.
    pub seed: u64,
    /// Rounds and pages that the parts' writers have come to.
    pub positions: Vec<(u64, usize)>,
    /// Pages that were wrong, now or when a writer came by.
    pub damaged_pages: u64,
    /// The first damage seen in any part.
    pub damage: Option<String>,
    /// A number that follows from seed and positions alone: equal for copies of one instant that
    /// stood still.
    pub fingerprint: u64,
}

impl Memory {
    /// Allocates and fills `pages` pages in `parts` parts of about equal size.
    pub fn fill(pages: usize, seed: u64, parts: usize) -> Result<Memory, TryReserveError> {
        let damaged_pages = Arc::new(AtomicU64::new(0));
        let parts = parts.clamp(1, pages.max(1));
        let borders: Vec<usize> = (0..=parts).map(|part| pages * part / parts).collect();
        let parts = borders
            .windows(2)
            .map(|border| Part::fill(border[0], border[1], seed).map(Mutex::new))
            .collect::<Result<Arc<[_]>, _>>()?;
        Ok(Memory {
            parts,
            seed,
            writing: Arc::new(AtomicBool::new(false)),
            damaged_pages,
        })
    }

    /// Rewrites the next `pages` pages, taken evenly from the parts.
    pub fn rewrite(&self, pages: usize) {
        for part in 0..self.parts.len() {
            let share = pages * (part + 1) / self.parts.len() - pages * part / self.parts.len();
            for _ in 0..share {
                self.rewrite_next(part);
            }
        }
    }

    /// Starts one writer per part, which goes on until [`Memory::stop_writing`]. `rate_mib` is the
    /// limit per second for all of them together.
    pub fn start_writing(&self, rate_mib: Option<u64>) -> std::io::Result<()> {
        if self.writing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let pause = rate_mib.map(|rate_mib| {
            let pages_per_second = rate_mib.max(1) * PAGES_PER_MIB as u64;
            Duration::from_micros(
                BURST_PAGES as u64 * self.parts.len() as u64 * 1_000_000 / pages_per_second,
            )
        });
        for part in 0..self.parts.len() {
            let memory = self.clone();
            std::thread::Builder::new()
                .name(format!("writer{part}"))
                .spawn(move || memory.write_on(part, pause))?;
        }
        Ok(())
    }

    fn write_on(&self, part: usize, pause: Option<Duration>) {
        while self.writing.load(Ordering::SeqCst) {
            for _ in 0..BURST_PAGES {
                self.rewrite_next(part);
            }
            match pause {
                Some(pause) => std::thread::sleep(pause),
                None => std::thread::yield_now(),
            }
        }
    }

    /// Writers end after their present burst.
    pub fn stop_writing(&self) {
        self.writing.store(false, Ordering::SeqCst);
    }

    fn rewrite_next(&self, part: usize) {
        if !self.part(part).rewrite_next() {
            self.damaged_pages.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn part(&self, part: usize) -> MutexGuard<'_, Part> {
        self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks every page against the writers' positions, while the writers wait.
    pub fn check(&self) -> Findings {
        let guards: Vec<_> = (0..self.parts.len()).map(|part| self.part(part)).collect();
        let mut findings = Findings {
            pages: 0,
            seed: self.seed,
            positions: Vec::new(),
            damaged_pages: self.damaged_pages.load(Ordering::SeqCst),
            damage: None,
            fingerprint: mix(self.seed),
        };
        for mut part in guards {
            findings.pages += part.pages.len();
            findings.positions.push((part.epoch, part.cursor));
            findings.damaged_pages += part.check();
            findings.damage = findings.damage.or_else(|| part.damage.clone());
            findings.fingerprint = mix(findings.fingerprint ^ mix(part.epoch) ^ part.cursor as u64);
        }
        findings
    }
}

impl Part {
    fn fill(first: usize, end: usize, seed: u64) -> Result<Part, TryReserveError> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(end - first)?;
        let first = first as u64;
        let mut part = Part {
            pages,
            seed,
            first,
            cursor: 0,
            epoch: 1,
            damage: None,
        };
        for index in 0..end - first as usize {
            part.pages.push(Page::EMPTY);
            let label = part.label(index);
            part.pages[index].write(label);
        }
        Ok(part)
    }

    fn label(&self, index: usize) -> Label {
        let epoch = if index < self.cursor {
            self.epoch
        } else {
            self.epoch - 1
        };
        Label {
            seed: self.seed,
            index: self.first + index as u64,
            epoch,
        }
    }

    fn check_page(&mut self, index: usize, when: &str) -> bool {
        let label = self.label(index);
        let Err(mismatch) = self.pages[index].check(label) else {
            return true;
        };
        let (index, epoch) = (label.index, label.epoch);
        self.damage.get_or_insert_with(|| {
            format!("page={index} epoch={epoch} when={when} found={mismatch}")
        });
        false
    }

    /// False if the page was wrong before or after.
    fn rewrite_next(&mut self) -> bool {
        let index = self.cursor;
        if index >= self.pages.len() {
            return true;
        }
        let was_right = self.check_page(index, "before-write");
        self.cursor += 1;
        let label = self.label(index);
        self.pages[index].write(label);
        let is_right = self.check_page(index, "after-write");
        if self.cursor == self.pages.len() {
            self.cursor = 0;
            self.epoch += 1;
        }
        was_right && is_right
    }

    fn check(&mut self) -> u64 {
        (0..self.pages.len())
            .filter(|index| !self.check_page(*index, "check"))
            .count() as u64
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;

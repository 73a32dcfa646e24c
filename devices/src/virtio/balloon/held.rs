//! Pages that the guest has put into the balloon.

use std::collections::BTreeMap;

use super::PAGE_BYTES;
use super::free::FreeRange;

/// Pages of the largest unit of [`super::FreePages::unit_bytes`], in words of bits.
const WORDS: usize = 8;

/// The pages of the balloon, by the unit in which memory is given back. It takes about 100 bytes
/// of host memory for each unit of RAM at most.
#[derive(Debug)]
pub(super) struct HeldPages {
    unit_pages: u64,
    units: BTreeMap<u64, [u64; WORDS]>,
}

impl HeldPages {
    /// An empty balloon.
    pub(super) fn new(unit_bytes: u64) -> Self {
        let unit_pages = (unit_bytes / PAGE_BYTES).clamp(1, WORDS as u64 * u64::from(u64::BITS));
        Self {
            unit_pages,
            units: BTreeMap::new(),
        }
    }

    /// Notes that a page, which must be RAM, is in the balloon. Returns the unit if all of it is
    /// since then.
    pub(super) fn insert(&mut self, page: u64) -> Option<FreeRange> {
        let (unit, word, bit) = self.place(page);
        let bits = self.units.entry(unit).or_default();
        if bits[word] & bit != 0 {
            return None;
        }
        bits[word] |= bit;
        let held: u32 = bits.iter().map(|word| word.count_ones()).sum();
        (u64::from(held) == self.unit_pages).then(|| FreeRange {
            gpa: unit * self.unit_pages * PAGE_BYTES,
            len_bytes: self.unit_pages * PAGE_BYTES,
        })
    }

    /// Notes that a page is not in the balloon any more.
    pub(super) fn remove(&mut self, page: u64) {
        let (unit, word, bit) = self.place(page);
        if let Some(bits) = self.units.get_mut(&unit) {
            bits[word] &= !bit;
            if *bits == [0; WORDS] {
                self.units.remove(&unit);
            }
        }
    }

    /// Forgets all pages.
    pub(super) fn clear(&mut self) {
        self.units.clear();
    }

    fn place(&self, page: u64) -> (u64, usize, u64) {
        let in_unit = page % self.unit_pages;
        let bits = u64::from(u64::BITS);
        (
            page / self.unit_pages,
            (in_unit / bits) as usize,
            1 << (in_unit % bits),
        )
    }
}

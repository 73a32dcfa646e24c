//! Mappings of a guest's page tables, read from a snapshot.
//!
//! The tables are the guest's, and so is what is in them. A level is left at each step, so the walk
//! ends; how many tables are read and how many ranges are kept is bounded.

use kvm_bindings::kvm_sregs;

/// Entries of a table, and bytes that it and its smallest page take.
pub const ENTRIES: usize = 512;
const PAGE_BYTES: u64 = 4096;
/// Bits of an address that one level tells apart.
const LEVEL_BITS: u32 = 9;
const PAGE_BITS: u32 = 12;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits 12 to 51 of an entry: an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The highest level whose entries can be pages: of 1 GiB.
const LARGE_LEVEL_MAX: u32 = 3;

const CR0_PAGING: u64 = 1 << 31;
const CR4_FIVE_LEVELS: u64 = 1 << 12;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

/// Tables that are read: enough for 256 GiB in pages of 4 KiB.
const TABLES_MAX: usize = 1 << 17;

/// Translation of a vCPU's virtual addresses to physical ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// No translation: both are the same.
    Off,
    /// Page tables of 64-bit mode.
    Tables {
        /// The first of them.
        root: u64,
        /// 4 or 5.
        levels: u32,
    },
    /// Page tables of an older mode, which are not read.
    Older,
}

/// Virtual addresses that follow each other, as the physical ones behind them do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// The first virtual address.
    pub virt: u64,
    /// The physical address behind it.
    pub phys: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Mappings that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Ranges, by virtual address.
    pub ranges: Vec<Mapped>,
    /// There is more than is kept or read.
    pub cut_off: bool,
}

impl Paging {
    /// Translation of a vCPU with these registers.
    pub fn of(sregs: &kvm_sregs) -> Self {
        if sregs.cr0 & CR0_PAGING == 0 {
            Paging::Off
        } else if sregs.efer & EFER_LONG_MODE_ACTIVE == 0 {
            Paging::Older
        } else {
            Paging::Tables {
                root: sregs.cr3 & ADDRESS,
                levels: if sregs.cr4 & CR4_FIVE_LEVELS == 0 {
                    4
                } else {
                    5
                },
            }
        }
    }
}

impl Mappings {
    /// Walks the tables, at most `ranges_max` ranges far. The upper half comes first, as that is
    /// the kernel's everywhere.
    ///
    /// # Errors
    /// What `read`, which gives a table by its physical address, fails with.
    pub fn walk<E>(
        root: u64,
        levels: u32,
        ranges_max: usize,
        read: impl Fn(u64) -> Result<[u64; ENTRIES], E>,
    ) -> Result<Self, E> {
        let mut walk = Walk {
            read,
            levels,
            ranges_max,
            tables: 0,
            found: Mappings::default(),
        };
        let table = (walk.read)(root)?;
        for half in [ENTRIES / 2..ENTRIES, 0..ENTRIES / 2] {
            for index in half {
                walk.entry(table[index], levels, walk.first_of(index))?;
            }
        }
        let mut found = walk.found;
        found.ranges.sort_unstable_by_key(|range| range.virt);
        Ok(found)
    }
}

struct Walk<R> {
    read: R,
    levels: u32,
    ranges_max: usize,
    tables: usize,
    found: Mappings,
}

/// Bytes that an entry of a table of this level covers.
fn covered(level: u32) -> u64 {
    1 << (PAGE_BITS + LEVEL_BITS * (level - 1))
}

impl<E, R: Fn(u64) -> Result<[u64; ENTRIES], E>> Walk<R> {
    /// The first address of an entry of the root: the bits above are as the highest.
    fn first_of(&self, index: usize) -> u64 {
        let unused = u64::BITS - PAGE_BITS - LEVEL_BITS * self.levels;
        let address = index as u64 * covered(self.levels);
        ((address << unused) as i64 >> unused) as u64
    }

    fn entry(&mut self, entry: u64, level: u32, virt: u64) -> Result<(), E> {
        if entry & PRESENT == 0 || self.found.cut_off {
            return Ok(());
        }
        let large = level > 1 && entry & LARGE != 0;
        if level == 1 || (large && level <= LARGE_LEVEL_MAX) {
            let bytes = covered(level);
            self.keep(Mapped {
                virt,
                phys: entry & ADDRESS & !(bytes - 1),
                bytes,
            });
            return Ok(());
        }
        if large {
            // A reserved bit: the processor does not take the entry either.
            return Ok(());
        }
        if self.tables == TABLES_MAX {
            self.found.cut_off = true;
            return Ok(());
        }
        self.tables += 1;
        let table = (self.read)(entry & ADDRESS)?;
        for (index, entry) in table.into_iter().enumerate() {
            self.entry(entry, level - 1, virt + index as u64 * covered(level - 1))?;
        }
        Ok(())
    }

    fn keep(&mut self, new: Mapped) {
        if let Some(last) = self.found.ranges.last_mut() {
            let follows = last.virt.checked_add(last.bytes) == Some(new.virt)
                && last.phys.checked_add(last.bytes) == Some(new.phys);
            if follows {
                last.bytes += new.bytes;
                return;
            }
        }
        if self.found.ranges.len() == self.ranges_max {
            self.found.cut_off = true;
        } else {
            self.found.ranges.push(new);
        }
    }
}

/// A table's entries from its bytes.
pub fn table_of(bytes: &[u8; PAGE_BYTES as usize]) -> [u64; ENTRIES] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

#[cfg(test)]
#[path = "page_tables_test.rs"]
mod page_tables_test;

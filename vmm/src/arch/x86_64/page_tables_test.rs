use std::cell::Cell;
use std::collections::HashMap;

use super::*;

const MAX: usize = 1000;
const WRITE: u64 = 2;
const NO_EXECUTE: u64 = 1 << 63;

/// Memory that holds nothing but tables.
#[derive(Default)]
struct Tables {
    pages: HashMap<u64, [u64; ENTRIES]>,
    read: Cell<usize>,
}

impl Tables {
    fn of(entries: &[(u64, usize, u64)]) -> Self {
        let mut tables = Self::default();
        for (table, index, entry) in entries {
            tables.pages.entry(*table).or_insert([0; ENTRIES])[*index] = *entry;
        }
        tables
    }

    fn walked(&self, levels: u32, ranges_max: usize) -> Mappings {
        let read = |address: u64| {
            self.read.set(self.read.get() + 1);
            Ok::<_, ()>(self.pages.get(&address).copied().unwrap_or([0; ENTRIES]))
        };
        Mappings::walk(0x1000, levels, ranges_max, read).unwrap()
    }
}

fn mapped(virt: u64, phys: u64, bytes: u64) -> Mapped {
    Mapped { virt, phys, bytes }
}

#[test]
fn pages_of_all_sizes_are_found_and_neighbours_are_one() {
    let table = PRESENT | WRITE;
    let tables = Tables::of(&[
        (0x1000, 0, 0x2000 | table),
        (0x1000, 511, 0x5000 | table),
        (0x2000, 0, 0x3000 | table),
        // 1 GiB at 1 GiB, with the bits that say what kind of memory it is.
        (
            0x2000,
            1,
            0xc000_0000 | LARGE | table | NO_EXECUTE | 1 << 12,
        ),
        (0x3000, 0, 0x4000 | table),
        (0x3000, 1, 0x20_0000 | LARGE | table),
        (0x4000, 510, 0x1f_e000 | table),
        (0x4000, 511, 0x1f_f000 | table),
        // Not present, whatever else it says.
        (0x4000, 7, 0x7000 | WRITE),
        (0x5000, 510, 0x6000 | table),
        (0x6000, 0, 0x100_0000 | LARGE | table),
        (0x6000, 1, 0x120_0000 | LARGE | table),
        (0x6000, 2, 0x120_0000 | LARGE | table),
    ]);
    let found = tables.walked(4, MAX);
    let expected = [
        mapped(0x1f_e000, 0x1f_e000, 0x2000 + 0x20_0000),
        mapped(0x4000_0000, 0xc000_0000, 1 << 30),
        mapped(0xffff_ffff_8000_0000, 0x100_0000, 0x40_0000),
        mapped(0xffff_ffff_8040_0000, 0x120_0000, 0x20_0000),
    ];
    assert_eq!(found.ranges, expected);
    assert!(!found.cut_off);
    assert_eq!(tables.read.get(), 6);
}

#[test]
fn five_levels_are_walked() {
    let tables = Tables::of(&[
        (0x1000, 256, 0x2000 | PRESENT),
        (0x2000, 1, 0x3000 | PRESENT),
        (0x3000, 2, 0x8000_0000 | LARGE | PRESENT),
    ]);
    let virt = 0xff00_0000_0000_0000 + (1 << 39) + (2 << 30);
    let found = tables.walked(5, MAX);
    assert_eq!(found.ranges, [mapped(virt, 0x8000_0000, 1 << 30)]);
    // An entry of the first two levels is never a page.
    let reserved = Tables::of(&[(0x1000, 0, 0x2000 | LARGE | PRESENT)]);
    assert_eq!(reserved.walked(4, MAX), Mappings::default());
    assert_eq!(reserved.walked(5, MAX), Mappings::default());
}

#[test]
fn tables_that_lead_to_themselves_come_to_an_end() {
    // As some kernels have it: one entry of the root is the root.
    let one = Tables::of(&[
        (0x1000, 511, 0x1000 | PRESENT),
        (0x1000, 0, 0x2000 | PRESENT),
        (0x2000, 0, 0x4000_0000 | LARGE | PRESENT),
    ]);
    let found = one.walked(4, MAX);
    assert!(
        found
            .ranges
            .contains(&mapped(u64::MAX - 0xfff, 0x1000, 0x1000)),
        "{found:x?}"
    );
    assert!(!found.cut_off);
    // All do.
    let mut all = Tables::default();
    all.pages.insert(0x1000, [0x1000 | PRESENT; ENTRIES]);
    let found = all.walked(4, MAX);
    assert!(found.cut_off);
    assert_eq!(found.ranges.len(), MAX);
    // And what would be kept is one range, or nothing.
    let mut endless = Tables::default();
    endless.pages.insert(0x1000, [0x2000 | PRESENT; ENTRIES]);
    endless.pages.insert(0x2000, [0x3000 | PRESENT; ENTRIES]);
    endless.pages.insert(0x3000, [0x4000 | PRESENT; ENTRIES]);
    let found = endless.walked(4, MAX);
    assert!(found.cut_off && found.ranges.is_empty());
    assert_eq!(endless.read.get(), TABLES_MAX + 1);
}

#[test]
fn ranges_are_kept_up_to_a_bound_the_kernels_first() {
    let mut entries = vec![
        (0x1000, 0, 0x2000 | PRESENT),
        (0x1000, 256, 0x2000 | PRESENT),
        (0x2000, 0, 0x3000 | PRESENT),
        (0x3000, 0, 0x4000 | PRESENT),
    ];
    entries.extend(
        (0..ENTRIES).map(|index| (0x4000, index, (index as u64 * 2) << PAGE_BITS | PRESENT)),
    );
    let found = Tables::of(&entries).walked(4, ENTRIES + 10);
    assert!(found.cut_off);
    assert_eq!(found.ranges.len(), ENTRIES + 10);
    assert_eq!(found.ranges[10].virt, 0xffff_8000_0000_0000);
}

#[test]
fn paging_is_told_by_the_registers() {
    let mut sregs = kvm_sregs::default();
    assert_eq!(Paging::of(&sregs), Paging::Off);
    (sregs.cr0, sregs.cr3) = (CR0_PAGING | 1, 0x8000 | 0x18);
    assert_eq!(Paging::of(&sregs), Paging::Older);
    sregs.efer = 0xd01 | EFER_LONG_MODE_ACTIVE;
    assert_eq!(
        Paging::of(&sregs),
        Paging::Tables {
            root: 0x8000,
            levels: 4
        }
    );
    sregs.cr4 = CR4_FIVE_LEVELS;
    assert_eq!(
        Paging::of(&sregs),
        Paging::Tables {
            root: 0x8000,
            levels: 5
        }
    );
}

#[test]
fn a_tables_bytes_are_little_endian() {
    let mut bytes = [0; 4096];
    bytes[8..16].copy_from_slice(&0x1234_5678_9abc_d003u64.to_le_bytes());
    assert_eq!(table_of(&bytes)[..3], [0, 0x1234_5678_9abc_d003, 0]);
}

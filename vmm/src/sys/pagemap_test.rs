use std::os::fd::AsFd;

use super::*;
use crate::sys::{
    address_range::{AddressRange, Sharing},
    uffd::Uffd,
};

const PAGE: usize = crate::cow::FRAME_SIZE_BYTES;

/// The kernel in use tells pages that were written before they were armed from those that were not.
#[test]
fn pages_written_before_arming_are_told_from_all_others() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(8 * PAGE as u64).unwrap();
    file.write_all_at(&[7; 4 * PAGE], 0).unwrap();
    let range = AddressRange::new(8 * PAGE, 2 << 20).unwrap();
    range
        .map_file(0, 8 * PAGE, file.as_fd(), 0, Sharing::Private)
        .unwrap();
    // SAFETY: the mapping is eight pages long and nobody else's.
    unsafe { range.as_ptr().add(2 * PAGE).write_volatile(1) };
    // SAFETY: as above.
    unsafe { range.as_ptr().add(3 * PAGE).read_volatile() };
    let uffd = Uffd::open().unwrap();
    uffd.register_write_protect(range.start(), 8 * PAGE)
        .unwrap();
    uffd.protect(range.start(), 8 * PAGE, true).unwrap();
    // SAFETY: as above; reading an armed page is not held.
    unsafe { range.as_ptr().read_volatile() };
    let pagemap = Pagemap::open().unwrap();
    let mut pages = pagemap.pages(range.start(), 8).unwrap();
    if pages.contains(&PageKind::Unclear) {
        range.populate_read(0, 8 * PAGE).unwrap();
        pages = pagemap.pages(range.start(), 8).unwrap();
    }
    let written: Vec<usize> = (0..8)
        .filter(|page| pages[*page] == PageKind::Written)
        .collect();
    assert_eq!(written, [2], "{pages:?}");
    assert!(!pages.contains(&PageKind::Unclear), "{pages:?}");
}

#[test]
fn a_private_page_that_is_swapped_out_or_moved_counts_as_written() {
    let swapped_out = SWAP | 1 << 57 | (1234 << 5);
    assert_eq!(kind(swapped_out), PageKind::Written);
    let marker = SWAP | 1 << 57 | (1 << 5) | 31;
    assert_eq!(kind(marker), PageKind::Untouched);
    assert_eq!(
        kind(SWAP | 1 << 57),
        PageKind::Unclear,
        "without privilege they look the same"
    );
    let file_page_being_moved = SWAP | FILE | (77 << 5) | 28;
    assert_eq!(kind(file_page_being_moved), PageKind::Untouched);
    let own_page_being_moved = SWAP | (77 << 5) | 28;
    assert_eq!(kind(own_page_being_moved), PageKind::Written);
}

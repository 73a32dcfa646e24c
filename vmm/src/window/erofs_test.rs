use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::window::test_mount::{cannot_mount, read};

/// A file with these pages as a kernel reads it, from data blocks that say their number.
fn read_by_kernel(pages: &[Option<u32>]) -> Vec<u8> {
    let image = tempfile::NamedTempFile::new().unwrap();
    let metadata = metadata(pages).unwrap();
    let file: &fs::File = image.as_file();
    file.write_all_at(&metadata, 0).unwrap();
    for block in pages.iter().flatten() {
        let at = metadata.len() + *block as usize * BLOCK_BYTES;
        file.write_all_at(&content(*block), at as u64).unwrap();
    }
    read(image.path())
}

fn content(block: u32) -> Vec<u8> {
    let words = (0..BLOCK_BYTES as u32 / 8).flat_map(|word| [block ^ 0x5a5a_5a5a, word]);
    words.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_kernel_reads_each_page_from_its_block_and_holes_as_zeros() {
    if cannot_mount() {
        return;
    }
    // An index in one block of metadata, exactly full, one entry more, and several.
    let full = (BLOCK_BYTES - INODE_BYTES) / INDEX_ENTRY_BYTES;
    for count in [0, 1, full, full + 1, 3000] {
        let pages: Vec<Option<u32>> = (0..count as u32)
            .map(|page| (page % 7 != 3).then_some((page * 2654) % 4001))
            .collect();
        let found = read_by_kernel(&pages);
        assert_eq!(found.len(), count * BLOCK_BYTES);
        for (page, (found, block)) in found.chunks(BLOCK_BYTES).zip(&pages).enumerate() {
            let expected = block.map_or(vec![0; BLOCK_BYTES], content);
            assert!(found == expected, "page {page} of {count}");
        }
    }
}

#[test]
fn metadata_takes_as_many_blocks_as_is_said_and_what_cannot_be_counted_is_refused() {
    for pages in [0, 1, 1007, 1008, 1009, 100_000] {
        let made = metadata(&vec![None; pages]).unwrap();
        assert_eq!(made.len(), metadata_blocks(pages) * BLOCK_BYTES, "{pages}");
    }
    assert_eq!((metadata_blocks(1008), metadata_blocks(1009)), (3, 4));
    assert!(metadata(&[Some(u32::MAX)]).is_none());
}

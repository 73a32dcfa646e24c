//! A read-only EROFS with one file, made around pages that lie anywhere behind it (Linux,
//! fs/erofs/erofs_fs.h).
//!
//! | block | what |
//! |---|---|
//! | 0 | superblock at 1024, inode of the root directory behind it |
//! | 1 | the root directory |
//! | 2 on | inode of the file, then its index: four bytes for each page |
//! | behind | data blocks, which are not made here |
//!
//! Each page of the file is a chunk of its own, so neighbours in the file need not be neighbours
//! here, and a page may be missing: it reads as zero. There is no checksum: nothing can be damaged
//! that is made when it is shown.

/// The file's name in the root directory.
pub const FILE_NAME: &str = "pages";
/// Size of a block, and of a page, in bytes.
pub const BLOCK_BYTES: usize = 4096;

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const BLOCK_BITS: u8 = 12;
/// Files may consist of chunks.
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Inodes are numbered by where they are, in units of 32 bytes.
const INODE_UNIT: usize = 32;
const INODE_BYTES: usize = 64;
const ROOT_INODE_AT: usize = SUPERBLOCK_AT + SUPERBLOCK_BYTES;
const DIRECTORY_BLOCK: usize = 1;
const FILE_INODE_AT: usize = 2 * BLOCK_BYTES;
const INDEX_AT: usize = FILE_INODE_AT + INODE_BYTES;
const INDEX_ENTRY_BYTES: usize = 4;
/// In place of a chunk's block: a hole.
const HOLE: u32 = u32::MAX;

/// `i_format` of an inode of 64 bytes, with its data in a row of blocks, or in chunks.
const FORMAT_PLAIN: u16 = 1;
const FORMAT_CHUNKS: u16 = 1 | 4 << 1;
/// `i_u` of a file in chunks of one block each, whose index holds block numbers alone.
const CHUNKS_OF_ONE_BLOCK: u32 = 0;

const ENTRY_BYTES: usize = 12;
const TYPE_FILE: u8 = 1;
const TYPE_DIRECTORY: u8 = 2;

const MODE_DIRECTORY: u16 = 0o040_500;
const MODE_FILE: u16 = 0o100_400;

/// Number of blocks before the first data block of a file with so many pages.
pub fn metadata_blocks(pages: usize) -> usize {
    (INDEX_AT + pages * INDEX_ENTRY_BYTES).div_ceil(BLOCK_BYTES)
}

/// Makes the blocks before the data blocks. `pages` has for each page of the file the data block
/// that holds it, counted from the first one. `None` when there are more blocks than EROFS can
/// count.
pub fn metadata(pages: &[Option<u32>]) -> Option<Vec<u8>> {
    let before = metadata_blocks(pages.len());
    let data_blocks = pages
        .iter()
        .flatten()
        .max()
        .map_or(0, |last| u64::from(*last) + 1);
    let blocks = u32::try_from(before as u64 + data_blocks).ok()?;
    let mut bytes = vec![0; before * BLOCK_BYTES];
    bytes[SUPERBLOCK_AT..][..SUPERBLOCK_BYTES].copy_from_slice(&superblock(blocks));
    let directory = directory();
    let root = Inode {
        format: FORMAT_PLAIN,
        mode: MODE_DIRECTORY,
        size_bytes: directory.len() as u64,
        data: DIRECTORY_BLOCK as u32,
        number: 1,
        links: 2,
    };
    bytes[ROOT_INODE_AT..][..INODE_BYTES].copy_from_slice(&root.bytes());
    bytes[DIRECTORY_BLOCK * BLOCK_BYTES..][..directory.len()].copy_from_slice(&directory);
    let file = Inode {
        format: FORMAT_CHUNKS,
        mode: MODE_FILE,
        size_bytes: (pages.len() * BLOCK_BYTES) as u64,
        data: CHUNKS_OF_ONE_BLOCK,
        number: 2,
        links: 1,
    };
    bytes[FILE_INODE_AT..][..INODE_BYTES].copy_from_slice(&file.bytes());
    let index = bytes[INDEX_AT..].as_chunks_mut::<INDEX_ENTRY_BYTES>().0;
    for (entry, page) in index.iter_mut().zip(pages) {
        *entry = page
            .map_or(HOLE, |block| before as u32 + block)
            .to_le_bytes();
    }
    Some(bytes)
}

fn superblock(blocks: u32) -> [u8; SUPERBLOCK_BYTES] {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[12] = BLOCK_BITS;
    bytes[14..16].copy_from_slice(&((ROOT_INODE_AT / INODE_UNIT) as u16).to_le_bytes());
    // Two inodes.
    bytes[16..24].copy_from_slice(&2u64.to_le_bytes());
    bytes[36..40].copy_from_slice(&blocks.to_le_bytes());
    bytes[64..69].copy_from_slice(b"nvvmm");
    bytes[80..84].copy_from_slice(&INCOMPAT_CHUNKED_FILE.to_le_bytes());
    bytes
}

struct Inode {
    format: u16,
    mode: u16,
    size_bytes: u64,
    data: u32,
    number: u32,
    links: u32,
}

impl Inode {
    fn bytes(&self) -> [u8; INODE_BYTES] {
        let mut bytes = [0; INODE_BYTES];
        bytes[0..2].copy_from_slice(&self.format.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.mode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.data.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.links.to_le_bytes());
        bytes
    }
}

/// Entries in the order of their names, then the names.
fn directory() -> Vec<u8> {
    let entries = [
        (".", ROOT_INODE_AT, TYPE_DIRECTORY),
        ("..", ROOT_INODE_AT, TYPE_DIRECTORY),
        (FILE_NAME, FILE_INODE_AT, TYPE_FILE),
    ];
    let (mut bytes, mut names) = (Vec::new(), Vec::<u8>::new());
    for (name, inode_at, kind) in entries {
        let name_at = (entries.len() * ENTRY_BYTES + names.len()) as u16;
        bytes.extend(((inode_at / INODE_UNIT) as u64).to_le_bytes());
        bytes.extend(name_at.to_le_bytes());
        bytes.extend([kind, 0]);
        names.extend(name.as_bytes());
    }
    bytes.extend(names);
    bytes
}

#[cfg(test)]
#[path = "erofs_test.rs"]
mod erofs_test;

//! The superblock: the one block that says which catalog is the committed one.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::node::{Entry, NodeKind};
use super::segment::{SEGMENTS_MAX, Segment, SegmentV2};
use super::{
    FORMAT_VERSION, FORMAT_VERSION_MIN, FORMAT_VERSION_WAITING, HOLDER_TABLE_BLOCK, Layout,
    SPARE_BLOCKS, SPARE_FIRST_BLOCK,
};
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;

/// The first bytes of every superblock.
pub(crate) const SUPERBLOCK_MAGIC: [u8; 8] = *b"NVVMPOOL";
/// Flag: the pool may promise more than its medium has.
pub(crate) const FLAG_OVERCOMMIT: u32 = 1;
/// Inner levels of the catalog: 256 leaves of 512 inodes each.
pub(crate) const CATALOG_HEIGHT: u32 = 1;
/// Most snapshots of a pool.
pub(crate) const SNAPSHOTS_MAX: u32 = 65_536;

/// The superblock as it is in its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SuperblockV2 {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) checksum: U32,
    pub(crate) generation: U64,
    pub(crate) uuid: [u8; 16],
    pub(crate) size_bytes: U64,
    pub(crate) created_unix_ns: U64,
    pub(crate) flags: U32,
    pub(crate) catalog_height: U32,
    pub(crate) catalog_root: U64,
    pub(crate) next_snapshot_id: U64,
    pub(crate) snapshots: U32,
    pub(crate) orphans: U32,
    pub(crate) holder_table_block: U32,
    pub(crate) spare_first_block: U32,
    pub(crate) spare_blocks: U32,
    pub(crate) segment_count: U32,
    pub(crate) segments: [SegmentV2; SEGMENTS_MAX],
    pub(crate) reserved: [u8; 2456],
}

const _: () = assert!(size_of::<SuperblockV2>() == 4096);
const _: () = assert!(offset_of!(SuperblockV2, checksum) == 12);
const _: () = assert!(offset_of!(SuperblockV2, generation) == 16);
const _: () = assert!(offset_of!(SuperblockV2, catalog_root) == 64);
const _: () = assert!(offset_of!(SuperblockV2, segments) == 104);

/// Why a slot holds no usable superblock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SlotFault {
    /// The slot does not start with the magic.
    NoMagic,
    /// The checksum does not fit the bytes.
    Checksum,
    /// Written by a program with another format version.
    Version(u32),
    /// Intact, but its fields contradict each other.
    Fields(String),
}

impl std::fmt::Display for SlotFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SlotFault::NoMagic => out.write_str("no pool magic"),
            SlotFault::Checksum => out.write_str("wrong checksum"),
            SlotFault::Version(version) => write!(out, "format version {version}"),
            SlotFault::Fields(what) => out.write_str(what),
        }
    }
}

impl SuperblockV2 {
    /// The first superblock of a pool.
    pub(crate) fn new(
        layout: &Layout,
        uuid: [u8; 16],
        created_unix_ns: u64,
        overcommit: bool,
    ) -> SuperblockV2 {
        let mut block = SuperblockV2::new_zeroed();
        block.magic = SUPERBLOCK_MAGIC;
        block.version = FORMAT_VERSION.into();
        block.uuid = uuid;
        block.created_unix_ns = created_unix_ns.into();
        block.flags = u32::from(overcommit).into();
        block.catalog_height = CATALOG_HEIGHT.into();
        block.next_snapshot_id = 1.into();
        block.holder_table_block = HOLDER_TABLE_BLOCK.into();
        block.spare_first_block = SPARE_FIRST_BLOCK.into();
        block.spare_blocks = SPARE_BLOCKS.into();
        for segment in layout.segments() {
            block.add_segment(segment);
        }
        block
    }

    /// Adds a segment, and with it the pool's size.
    pub(crate) fn add_segment(&mut self, segment: &Segment) {
        let used = self.segment_count.get();
        if let Some(row) = self.segments.get_mut(used as usize) {
            *row = segment.to_row();
            self.segment_count = (used + 1).into();
            self.size_bytes = (u64::from(segment.end_chunk()) * CHUNK_SIZE_BYTES).into();
        }
    }

    /// The pool's layout, from the table of segments. Checked by `decode`.
    pub(crate) fn layout(&self) -> Result<Layout> {
        let layout = Layout::default();
        let used = self.segments.iter().take(self.segment_count.get() as usize);
        for row in used {
            let end_chunk = u64::from(row.first_chunk.get()) + u64::from(row.chunks.get());
            let segment = layout.next_segment(end_chunk * CHUNK_SIZE_BYTES)?;
            layout.add(segment)?;
        }
        Ok(layout)
    }

    /// True when inodes of the pool may have the root of their content already: programs that do
    /// not know it do not open the pool any more.
    pub(crate) fn keeps_roots(&self) -> bool {
        self.version.get() >= 6
    }

    /// True when freed blocks of the pool wait to be cleaned, and leases are taken without a lock.
    pub(crate) fn cleans_later(&self) -> bool {
        self.version.get() >= FORMAT_VERSION_WAITING
    }

    /// Sets whether the pool may promise more than its medium has, from now on.
    pub(crate) fn set_overcommit(&mut self, overcommit: bool) {
        self.flags = (self.flags.get() & !FLAG_OVERCOMMIT | u32::from(overcommit)).into();
    }

    /// The bytes to store: the block with its checksum.
    pub(crate) fn seal(&self) -> [u8; 4096] {
        let mut sealed = self.clone();
        sealed.checksum = 0.into();
        sealed.checksum = crc32fast::hash(sealed.as_bytes()).into();
        let mut bytes = [0; 4096];
        bytes.copy_from_slice(sealed.as_bytes());
        bytes
    }

    /// Reads a slot. Magic, checksum and version are judged before anything else is looked at.
    pub(crate) fn decode(bytes: &[u8; 4096]) -> Result<SuperblockV2, SlotFault> {
        let Ok(mut block) = SuperblockV2::read_from_bytes(bytes) else {
            return Err(SlotFault::NoMagic);
        };
        if block.magic != SUPERBLOCK_MAGIC {
            return Err(SlotFault::NoMagic);
        }
        let checksum = block.checksum.get();
        block.checksum = 0.into();
        if crc32fast::hash(block.as_bytes()) != checksum {
            return Err(SlotFault::Checksum);
        }
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&block.version.get()) {
            return Err(SlotFault::Version(block.version.get()));
        }
        block
            .check_fields()
            .map_err(|error| SlotFault::Fields(error.to_string()))?;
        Ok(block)
    }

    fn check_fields(&self) -> Result<()> {
        let layout = self.layout()?;
        // What follows from the layout, and what is fixed, must be what this program would write.
        let expected = SuperblockV2::new(&layout, self.uuid, 0, false);
        let areas = |block: &SuperblockV2| {
            [
                block.holder_table_block,
                block.spare_first_block,
                block.spare_blocks,
                block.segment_count,
                block.catalog_height,
            ]
        };
        if areas(self) != areas(&expected)
            || self.segments != expected.segments
            || self.size_bytes != expected.size_bytes
        {
            return Err(Error::damaged(
                "the superblock's areas do not fit the pool's size",
            ));
        }
        if self.flags.get() & !FLAG_OVERCOMMIT != 0 {
            return Err(Error::damaged(format!(
                "the superblock has unknown flags {:#x}",
                self.flags
            )));
        }
        self.catalog_root(&layout)?;
        Ok(())
    }

    /// The entry that points to the catalog. Checked by `decode`.
    pub(crate) fn catalog_root(&self, layout: &Layout) -> Result<Entry> {
        Entry::from_raw(
            self.catalog_root.get(),
            CATALOG_HEIGHT,
            NodeKind::Catalog,
            layout,
        )
    }

    /// True when the pool may promise more than its medium has.
    pub(crate) fn overcommit(&self) -> bool {
        self.flags.get() & FLAG_OVERCOMMIT != 0
    }
}

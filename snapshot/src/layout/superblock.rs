//! The superblock: the one block that says which catalog is the committed one.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::node::{Entry, NodeKind};
use super::{CHUNK_TABLE_BLOCK, FORMAT_VERSION, HOLDER_TABLE_BLOCK, Layout, SPARE_BLOCKS, SPARE_FIRST_BLOCK};
use crate::error::{Error, Result};

/// What every superblock starts with.
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
pub(crate) struct SuperblockV1 {
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
    pub(crate) chunk_table_block: U32,
    pub(crate) refcount_block: U32,
    pub(crate) data_first_chunk: U32,
    pub(crate) reserved: [u8; 3984],
}

const _: () = assert!(size_of::<SuperblockV1>() == 4096);
const _: () = assert!(offset_of!(SuperblockV1, checksum) == 12);
const _: () = assert!(offset_of!(SuperblockV1, generation) == 16);
const _: () = assert!(offset_of!(SuperblockV1, catalog_root) == 64);
const _: () = assert!(offset_of!(SuperblockV1, reserved) == 112);

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

impl SuperblockV1 {
    /// The first superblock of a pool.
    pub(crate) fn new(
        layout: &Layout,
        uuid: [u8; 16],
        created_unix_ns: u64,
        overcommit: bool,
    ) -> SuperblockV1 {
        let mut block = SuperblockV1::new_zeroed();
        block.magic = SUPERBLOCK_MAGIC;
        block.version = FORMAT_VERSION.into();
        block.uuid = uuid;
        block.size_bytes = layout.size_bytes.into();
        block.created_unix_ns = created_unix_ns.into();
        block.flags = u32::from(overcommit).into();
        block.catalog_height = CATALOG_HEIGHT.into();
        block.next_snapshot_id = 1.into();
        block.holder_table_block = HOLDER_TABLE_BLOCK.into();
        block.spare_first_block = SPARE_FIRST_BLOCK.into();
        block.spare_blocks = SPARE_BLOCKS.into();
        block.chunk_table_block = CHUNK_TABLE_BLOCK.into();
        block.refcount_block = layout.refcount_block.into();
        block.data_first_chunk = layout.data_first_chunk.into();
        block
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
    pub(crate) fn decode(bytes: &[u8; 4096]) -> Result<SuperblockV1, SlotFault> {
        let Ok(mut block) = SuperblockV1::read_from_bytes(bytes) else {
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
        if block.version != FORMAT_VERSION {
            return Err(SlotFault::Version(block.version.get()));
        }
        block
            .check_fields()
            .map_err(|error| SlotFault::Fields(error.to_string()))?;
        Ok(block)
    }

    fn check_fields(&self) -> Result<()> {
        let layout = Layout::for_size(self.size_bytes.get())?;
        let expected = SuperblockV1::new(&layout, self.uuid, 0, false);
        let areas = |block: &SuperblockV1| {
            [
                block.holder_table_block,
                block.spare_first_block,
                block.spare_blocks,
                block.chunk_table_block,
                block.refcount_block,
                block.data_first_chunk,
                block.catalog_height,
            ]
        };
        if areas(self) != areas(&expected) {
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
        Entry::from_raw(
            self.catalog_root.get(),
            CATALOG_HEIGHT,
            NodeKind::Catalog,
            &layout,
        )?;
        Ok(())
    }

    /// The entry that points to the catalog. Checked by `decode`.
    pub(crate) fn catalog_root(&self, layout: &Layout) -> Result<Entry> {
        Entry::from_raw(self.catalog_root.get(), CATALOG_HEIGHT, NodeKind::Catalog, layout)
    }

    /// Whether the pool may promise more than its medium has.
    pub(crate) fn overcommit(&self) -> bool {
        self.flags.get() & FLAG_OVERCOMMIT != 0
    }
}

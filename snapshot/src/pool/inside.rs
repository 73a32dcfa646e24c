//! A pool's own structures, decoded for people to read.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::catalog::read_slot;
use crate::catalog_lock::CatalogLock;
use crate::error::Result;
use crate::handle::Pool;
use crate::layout::SUPERBLOCK_BLOCKS;
use crate::layout::inode::MapKind;
use crate::layout::node::Entry;
use crate::number::{BlockNo, ChunkNo, SnapshotId};
use crate::tree::{Frames, NodePlace, Role, Visitor, walk};

use super::snapshots::SnapshotEntry;
use crate::identity::uuid_text;

/// Superblocks and segments of a pool (docs/formats/pool.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolInside {
    /// Both slots. The committed catalog is that of the usable one with the higher generation.
    pub superblocks: Vec<SuperblockInside>,
    /// The places of tables and data.
    pub segments: Vec<SegmentInside>,
    /// Blocks set aside for removals in a pool that is full: the first, and how many.
    pub spare_blocks: (u32, u32),
    /// The catalog's slots in use, orphans included.
    pub inodes: Vec<InodePlace>,
}

/// One slot for a superblock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SuperblockInside {
    /// A slot that can be used.
    Usable {
        /// Its block.
        block: u32,
        /// Version of the format.
        version: u32,
        /// Number of the commit that wrote it.
        generation: u64,
        /// The pool's uuid.
        uuid: String,
        /// Size of the pool.
        size_bytes: u64,
        /// The time at which the pool was made, in nanoseconds since 1970.
        created_unix_ns: u64,
        /// True when it may promise more than its medium has.
        overcommit: bool,
        /// The root of the catalog.
        catalog_root: Reference,
        /// Id of the snapshot that comes next.
        next_snapshot_id: u64,
        /// Snapshots that have a name.
        snapshots: u32,
        /// Snapshots that were removed and are still in use.
        orphans: u32,
    },
    /// A slot that cannot be used.
    Unusable {
        /// Its block.
        block: u32,
        /// Why.
        fault: String,
    },
}

/// The target of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Nothing.
    Hole,
    /// The 512 blocks of a chunk.
    Chunk(ChunkNo),
    /// A node in a block, with the low 24 bits of its checksum.
    Node {
        /// The block.
        block: BlockNo,
        /// The bits.
        crc24: u32,
    },
}

impl From<Entry> for Reference {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Hole => Reference::Hole,
            Entry::Chunk(chunk) => Reference::Chunk(chunk),
            Entry::Node { block, crc24 } => Reference::Node { block, crc24 },
        }
    }
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentInside {
    /// Its first chunk.
    pub first_chunk: u32,
    /// Its number of chunks.
    pub chunks: u32,
    /// First block of its chunk table.
    pub chunk_table_block: u32,
    /// First block of its block table.
    pub block_table_block: u32,
    /// First chunk that data can be in.
    pub data_first_chunk: u32,
}

/// The place of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InodePlace {
    /// Slot of the catalog.
    pub slot: u32,
    /// Its block.
    pub block: BlockNo,
    /// The snapshot.
    pub id: SnapshotId,
    /// Its name, or the one that it had.
    pub name: String,
    /// Removed, and kept as long as it is pinned.
    pub orphan: bool,
}

/// A snapshot's own structures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInside {
    /// The catalog's entry of it.
    pub entry: SnapshotEntry,
    /// The place of its inode.
    pub inode: InodePlace,
    /// Its maps. In JSON, where a file has only one, `map` is that of memory.
    #[serde(rename = "map", serialize_with = "memory_map")]
    pub maps: Vec<MapInside>,
    /// Blocks of its saved state.
    pub state_blocks: Vec<BlockNo>,
    /// CRC-32 of that state.
    pub state_checksum: u32,
}

fn memory_map<S: Serializer>(maps: &[MapInside], serializer: S) -> Result<S::Ok, S::Error> {
    let memory = maps.iter().find(|map| map.kind == MapKind::Memory);
    memory.serialize(serializer)
}

/// A map from frames to blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapInside {
    /// The kind of what is mapped.
    #[serde(skip)]
    pub kind: MapKind,
    /// Its size.
    pub size_bytes: u64,
    /// Its root.
    pub root: Reference,
    /// Inner levels.
    pub height: u32,
    /// Nodes, leaves included.
    pub nodes: u64,
    /// Chunks of memory that are the blocks of one chunk of the pool, in order.
    pub whole_chunks: u64,
    /// Chunks of memory whose frames have blocks of their own.
    pub leaves: u64,
    /// Frames that have a block.
    pub frames: u64,
}

impl Visitor for MapInside {
    fn role(&mut self, _: BlockNo, role: Role) {
        self.nodes += u64::from(matches!(role, Role::Node(_)));
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
        match frames {
            Frames::Chunk(_) => {
                self.whole_chunks += 1;
                self.frames += u64::from(crate::number::CHUNK_BLOCKS);
            }
            Frames::Leaf(blocks) => {
                self.leaves += 1;
                self.frames += u64::from(blocks.count());
            }
        }
        Ok(())
    }

    fn reference(&mut self, _: BlockNo) -> Result<bool> {
        Ok(true)
    }
}

impl Pool {
    /// The pool's superblocks, segments and inodes.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], [`crate::Error::Io`].
    pub fn inside(&self) -> Result<PoolInside> {
        let mut lock = CatalogLock::take(self)?;
        let inodes = lock.listing()?.iter().map(InodePlace::of).collect();
        let store = &self.store;
        let mut superblocks = Vec::new();
        for (slot, block) in SUPERBLOCK_BLOCKS.into_iter().enumerate() {
            superblocks.push(match read_slot(&*store.region, slot)? {
                Ok(found) => SuperblockInside::Usable {
                    block,
                    version: found.version.get(),
                    generation: found.generation.get(),
                    uuid: uuid_text(&found.uuid),
                    size_bytes: found.size_bytes.get(),
                    created_unix_ns: found.created_unix_ns.get(),
                    overcommit: found.overcommit(),
                    catalog_root: found.catalog_root(&store.layout)?.into(),
                    next_snapshot_id: found.next_snapshot_id.get(),
                    snapshots: found.snapshots.get(),
                    orphans: found.orphans.get(),
                },
                Err(fault) => SuperblockInside::Unusable {
                    block,
                    fault: fault.to_string(),
                },
            });
        }
        let segments = store.layout.segments().map(|segment| SegmentInside {
            first_chunk: segment.first_chunk,
            chunks: segment.chunks,
            chunk_table_block: segment.chunk_table_block,
            block_table_block: segment.block_table_block,
            data_first_chunk: segment.data_first_chunk,
        });
        Ok(PoolInside {
            superblocks,
            segments: segments.collect(),
            spare_blocks: (
                crate::layout::SPARE_FIRST_BLOCK,
                crate::layout::SPARE_BLOCKS,
            ),
            inodes,
        })
    }

    /// A snapshot's inode and maps.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::Damaged`], [`crate::Error::Io`].
    pub fn inside_snapshot(&self, name: &str) -> Result<SnapshotInside> {
        let entry = self.find(name)?;
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        let Some(listed) = listing.by_id(entry.id) else {
            return Err(self.not_found(name, &listing));
        };
        let inode = Arc::clone(&listed.inode);
        let mut maps = Vec::new();
        for map in &inode.maps {
            let mut inside = MapInside {
                kind: map.kind,
                size_bytes: map.size_bytes(),
                root: map.root.into(),
                height: map.height(),
                nodes: 0,
                whole_chunks: 0,
                leaves: 0,
                frames: 0,
            };
            walk(&self.store, map.root, NodePlace::root_of(map), &mut inside)?;
            maps.push(inside);
        }
        Ok(SnapshotInside {
            entry,
            inode: InodePlace::of(listed),
            maps,
            state_blocks: inode.state_blocks.clone(),
            state_checksum: inode.state_checksum,
        })
    }
}

impl InodePlace {
    fn of(listed: &crate::catalog::Listed) -> Self {
        Self {
            slot: listed.slot,
            block: listed.block,
            id: listed.inode.id,
            name: listed.inode.name.clone(),
            orphan: listed.inode.orphan,
        }
    }
}

#[cfg(test)]
#[path = "inside_test.rs"]
mod inside_test;

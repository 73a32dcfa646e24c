//! Structures of a pool and of a snapshot, decoded. docs/formats/pool.md explains them.

use std::path::Path;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, InodePlace, MapInside, MapKind, PoolInside, Reference, SegmentInside,
    SnapshotInside, SuperblockInside,
};
use serde::Serialize;
use serde_json::Value;

use super::snapshot::Snapshot;
use super::{blocks_bytes, path_text, rfc3339};

/// Structures of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InsidePool {
    /// Path of the pool.
    pool: String,
    /// Size of a block.
    block_bytes: u64,
    /// Both superblocks. The usable one with the higher generation counts.
    superblocks: Vec<Superblock>,
    /// Places of tables and data.
    pool_segments: Vec<Segment>,
    /// The first block that is set aside for removals in a full pool.
    spare_first_block: u32,
    /// Number of these blocks.
    spare_blocks: u32,
    /// Inodes of the catalog, those of removed snapshots in use too.
    inodes: Vec<Inode>,
}

impl InsidePool {
    /// JSON of a pool.
    pub fn of(pool: &Path, inside: &PoolInside) -> Self {
        Self {
            pool: path_text(pool),
            block_bytes: BLOCK_SIZE_BYTES,
            superblocks: inside.superblocks.iter().map(Superblock::of).collect(),
            pool_segments: inside.segments.iter().map(Segment::of).collect(),
            spare_first_block: inside.spare_blocks.0,
            spare_blocks: inside.spare_blocks.1,
            inodes: inside.inodes.iter().map(Inode::of).collect(),
        }
    }
}

/// Superblock. If it cannot be used, it has only a block and a fault.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Superblock {
    /// Number of the block.
    block: u32,
    /// Reason why it cannot be used.
    fault: Option<String>,
    /// Version of the format.
    version: Option<u32>,
    /// Number of the commit that wrote it.
    generation: Option<u64>,
    /// UUID of the pool.
    uuid: Option<String>,
    /// Size of the pool.
    size_bytes: Option<u64>,
    /// Time at which the pool was made, in UTC (RFC 3339).
    created: Option<String>,
    /// The same time in nanoseconds since 1970, as digits.
    created_unix_ns: Option<String>,
    /// True if the pool may be larger than what its medium has left.
    overcommit: Option<bool>,
    /// Root of the catalog.
    catalog_root: Option<Root>,
    /// Id of the next snapshot.
    next_snapshot_id: Option<u64>,
    /// Number of snapshots with a name.
    snapshot_count: Option<u32>,
    /// Number of snapshots that were removed and are still in use.
    orphan_count: Option<u32>,
}

impl Superblock {
    fn of(superblock: &SuperblockInside) -> Self {
        match superblock {
            SuperblockInside::Unusable { block, fault } => Self {
                block: *block,
                fault: Some(fault.clone()),
                ..Self::default()
            },
            SuperblockInside::Usable {
                block,
                version,
                generation,
                uuid,
                size_bytes,
                created_unix_ns,
                overcommit,
                catalog_root,
                next_snapshot_id,
                snapshots,
                orphans,
            } => Self {
                block: *block,
                fault: None,
                version: Some(*version),
                generation: Some(*generation),
                uuid: Some(uuid.clone()),
                size_bytes: Some(*size_bytes),
                created: Some(rfc3339(*created_unix_ns)),
                created_unix_ns: Some(created_unix_ns.to_string()),
                overcommit: Some(*overcommit),
                catalog_root: Some(Root::of(catalog_root)),
                next_snapshot_id: Some(*next_snapshot_id),
                snapshot_count: Some(*snapshots),
                orphan_count: Some(*orphans),
            },
        }
    }
}

/// Target of an entry of a map.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Root {
    /// Kind of the target. A hole is nothing.
    #[cfg_attr(test, schemars(extend("enum" = ["hole", "chunk", "node"])))]
    kind: &'static str,
    /// Number of the chunk of the pool.
    chunk: Option<u32>,
    /// Number of the block that the node is in.
    block: Option<u32>,
    /// Low 24 bits of the checksum of the node.
    crc24: Option<u32>,
}

impl Root {
    fn of(reference: &Reference) -> Self {
        let (kind, chunk, block, crc24) = match reference {
            Reference::Hole => ("hole", None, None, None),
            Reference::Chunk(chunk) => ("chunk", Some(chunk.get()), None, None),
            Reference::Node { block, crc24 } => ("node", None, Some(block.get()), Some(*crc24)),
        };
        Self {
            kind,
            chunk,
            block,
            crc24,
        }
    }
}

/// Segment of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Segment {
    /// Number of the first chunk.
    first_chunk: u32,
    /// Number of chunks.
    chunk_count: u32,
    /// First block of the chunk table.
    chunk_table_block: u32,
    /// First block of the block table.
    block_table_block: u32,
    /// First chunk for data.
    data_first_chunk: u32,
}

impl Segment {
    fn of(segment: &SegmentInside) -> Self {
        Self {
            first_chunk: segment.first_chunk,
            chunk_count: segment.chunks,
            chunk_table_block: segment.chunk_table_block,
            block_table_block: segment.block_table_block,
            data_first_chunk: segment.data_first_chunk,
        }
    }
}

/// Place of an inode.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Inode {
    /// Slot of the catalog.
    slot: u32,
    /// Number of the block.
    block: u32,
    /// Name of the snapshot, or the name that it had.
    snapshot: String,
    /// Id of the snapshot.
    snapshot_id: u64,
    /// True if the snapshot was removed and is still in use.
    orphan: bool,
}

impl Inode {
    fn of(inode: &InodePlace) -> Self {
        Self {
            slot: inode.slot,
            block: inode.block.get(),
            snapshot: inode.name.clone(),
            snapshot_id: inode.id.get(),
            orphan: inode.orphan,
        }
    }
}

/// Structures of a snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InsideSnapshot {
    /// Path of the pool.
    pool: String,
    /// Size of a block.
    block_bytes: u64,
    /// The snapshot as `nvvmm snapshots` lists it.
    entry: Snapshot,
    /// Place of its inode.
    inode: Inode,
    /// Map of its memory.
    map: Option<Map>,
    /// Its disks, by name.
    disks: Vec<Disk>,
    /// Numbers of the blocks of its saved state.
    state_block_numbers: Vec<u32>,
    /// CRC-32 of the saved state.
    state_crc32: u32,
    /// Saved state, decoded.
    #[cfg_attr(test, schemars(with = "super::schema_test::saved::State"))]
    saved_state: Value,
}

impl InsideSnapshot {
    /// JSON of a snapshot.
    pub fn of(pool: &Path, inside: &SnapshotInside, saved_state: Value) -> Self {
        let memory = inside.maps.iter().find(|map| map.kind == MapKind::Memory);
        Self {
            pool: path_text(pool),
            block_bytes: BLOCK_SIZE_BYTES,
            entry: Snapshot::of(&inside.entry),
            inode: Inode::of(&inside.inode),
            map: memory.map(Map::of),
            disks: inside.maps.iter().filter_map(Disk::of).collect(),
            state_block_numbers: inside
                .state_blocks
                .iter()
                .map(|block| block.get())
                .collect(),
            state_crc32: inside.state_checksum,
            saved_state,
        }
    }
}

/// Disk of a snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    /// Name of the disk.
    disk: String,
    /// Size of the disk.
    size_bytes: u64,
    /// Map of its blocks.
    map: Map,
}

impl Disk {
    /// JSON of a map, if it is that of a disk.
    fn of(map: &MapInside) -> Option<Self> {
        let MapKind::Disk(name) = map.kind else {
            return None;
        };
        Some(Self {
            disk: name.as_str().to_owned(),
            size_bytes: map.size_bytes,
            map: Map::of(map),
        })
    }
}

/// Map from frames to blocks.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Map {
    /// Root of the map.
    root: Root,
    /// Number of inner levels.
    level_count: u32,
    /// Number of nodes, leaves included.
    node_count: u64,
    /// Number of chunks of memory that are one chunk of the pool.
    whole_chunk_count: u64,
    /// Number of chunks of memory whose frames have blocks of their own.
    leaf_count: u64,
    /// Memory that has blocks of the pool.
    mapped_bytes: u64,
}

impl Map {
    fn of(map: &MapInside) -> Self {
        Self {
            root: Root::of(&map.root),
            level_count: map.height,
            node_count: map.nodes,
            whole_chunk_count: map.whole_chunks,
            leaf_count: map.leaves,
            mapped_bytes: blocks_bytes(map.frames),
        }
    }
}

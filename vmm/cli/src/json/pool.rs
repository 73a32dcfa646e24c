//! Pools: their use, growth, map, check and scrub.

use std::path::Path;

use nvvmm::memory::gpa_of;
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, CHUNK_BLOCKS, CheckReport, ChunkUse, DamagedFrame, Grown, HolderStatus,
    MapKind, PoolMap, PoolStatus, ScrubReport, SnapshotEntry, SnapshotSpace,
};
use serde::Serialize;

use super::snapshot::Snapshot;
use super::{blocks_bytes, path_text, word};

/// Use of a pool, and its users.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// Path of the pool.
    pool: String,
    /// UUID of the pool.
    uuid: String,
    /// Kind of the medium that the pool is on.
    #[cfg_attr(
        test,
        schemars(extend("enum" = ["tmpfs", "hugetlbfs", "fsdax", "devdax", "file"]))
    )]
    medium: String,
    /// Copy-on-write engine of VMs in this pool.
    #[cfg_attr(test, schemars(extend("enum" = ["userfaultfd", "private"])))]
    cow_engine: String,
    /// Reason for that engine.
    cow_engine_reason: String,
    /// Strongest durability of snapshots in this pool.
    #[cfg_attr(test, schemars(extend("enum" = ["process", "host", "power"])))]
    durability: String,
    /// Reason for that durability.
    durability_reason: String,
    /// True if the pool may be larger than what its medium has left.
    overcommit: bool,
    /// Size of the pool. The next five add up to it, without `medium_bytes`.
    size_bytes: u64,
    /// Space that the pool takes of its medium now.
    medium_bytes: u64,
    /// Fixed tables of the pool.
    metadata_bytes: u64,
    /// Snapshots and disks, with their maps and the catalog.
    snapshot_bytes: u64,
    /// Space that is leased to VMs and in no snapshot.
    leased_bytes: u64,
    /// Space that is free.
    free_bytes: u64,
    /// Number of snapshots with a name.
    snapshot_count: u32,
    /// Number of these that were received only in part.
    incomplete_count: u32,
    /// Number of disks, without those of snapshots.
    disk_count: u32,
    /// Number of snapshots that were removed and are still in use.
    orphan_count: u32,
    /// Number of the last commit.
    generation: u64,
    /// Processes that use the pool.
    holders: Vec<Holder>,
    /// Snapshots, by id.
    snapshots: Vec<Snapshot>,
}

impl Status {
    /// JSON of a pool's status and its snapshots.
    pub fn of(status: &PoolStatus, snapshots: &[SnapshotEntry]) -> Self {
        Self {
            pool: path_text(&status.path),
            uuid: status.uuid.clone(),
            medium: word(&status.medium),
            cow_engine: word(&status.cow_engine),
            cow_engine_reason: status.cow_engine_reason.to_owned(),
            durability: word(&status.durability.strongest),
            durability_reason: status.durability.reason.clone(),
            overcommit: status.overcommit,
            size_bytes: status.size_bytes,
            medium_bytes: status.medium_bytes,
            metadata_bytes: blocks_bytes(status.metadata_blocks),
            snapshot_bytes: blocks_bytes(status.snapshot_blocks),
            leased_bytes: blocks_bytes(status.leased_blocks),
            free_bytes: blocks_bytes(status.free_blocks),
            snapshot_count: status.snapshots,
            incomplete_count: status.incomplete,
            disk_count: status.disks,
            orphan_count: status.orphans,
            generation: status.generation,
            holders: status.holders.iter().map(Holder::of).collect(),
            snapshots: Snapshot::all(snapshots),
        }
    }
}

/// Process that uses a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Holder {
    /// Name of the VM, or of the command.
    holder: String,
    /// Process id.
    pid: u32,
    /// Time at which the process started, in clock ticks since the boot of the host.
    start_time_ticks: u64,
    /// Space that it has leased.
    leased_bytes: u64,
    /// Part of it that is in use.
    used_bytes: u64,
    /// Ids of the snapshots that it needs.
    pinned_snapshot_ids: Vec<u64>,
}

impl Holder {
    fn of(holder: &HolderStatus) -> Self {
        Self {
            holder: holder.name.clone(),
            pid: holder.pid,
            start_time_ticks: holder.start_time_ticks,
            leased_bytes: blocks_bytes(u64::from(holder.leased_chunks) * u64::from(CHUNK_BLOCKS)),
            used_bytes: blocks_bytes(holder.blocks_in_use),
            pinned_snapshot_ids: holder.pinned.clone(),
        }
    }
}

/// Growth of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Growth {
    /// Path of the pool.
    pool: String,
    /// Size before.
    size_before_bytes: u64,
    /// Size now.
    size_bytes: u64,
    /// Free space that was added.
    added_bytes: u64,
}

impl Growth {
    /// JSON of a growth.
    pub fn of(pool: &Path, grown: &Grown) -> Self {
        Self {
            pool: path_text(pool),
            size_before_bytes: grown.size_bytes_before,
            size_bytes: grown.size_bytes,
            added_bytes: blocks_bytes(grown.blocks_added),
        }
    }
}

/// Use of each chunk of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Map {
    /// Path of the pool.
    pool: String,
    /// Size of the pool.
    size_bytes: u64,
    /// Size of a block.
    block_bytes: u64,
    /// Number of blocks of a chunk.
    chunk_blocks: u32,
    /// Chunks, in order.
    chunks: Vec<Chunk>,
    /// Memory of each snapshot, by id.
    snapshots: Vec<Space>,
}

impl Map {
    /// JSON of a map.
    pub fn of(pool: &Path, map: &PoolMap) -> Self {
        Self {
            pool: path_text(pool),
            size_bytes: map.size_bytes,
            block_bytes: BLOCK_SIZE_BYTES,
            chunk_blocks: CHUNK_BLOCKS,
            chunks: { map.chunks.iter() }
                .map(|chunk| Chunk::of(chunk, &map.holders))
                .collect(),
            snapshots: map.snapshots.iter().map(Space::of).collect(),
        }
    }
}

/// Blocks of a chunk, by their use.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Chunk {
    /// Structures of the pool: tables, catalog, maps, saved states.
    metadata_blocks: u32,
    /// Memory of one snapshot.
    own_blocks: u32,
    /// Memory of several snapshots.
    shared_blocks: u32,
    /// Disks, and what snapshots have of disks.
    disk_blocks: u32,
    /// Blocks of no snapshot and no disk that are leased.
    leased_blocks: u32,
    /// Free blocks.
    free_blocks: u32,
    /// The largest number of snapshots that one block is in.
    snapshot_max_count: u32,
    /// Name of the VM or command that has leased the chunk.
    holder: Option<String>,
}

impl Chunk {
    fn of(chunk: &ChunkUse, holders: &[String]) -> Self {
        Self {
            metadata_blocks: chunk.metadata,
            own_blocks: chunk.own,
            shared_blocks: chunk.shared,
            disk_blocks: chunk.disks,
            leased_blocks: chunk.leased,
            free_blocks: chunk.free,
            snapshot_max_count: chunk.snapshots_max,
            holder: { chunk.holder }.and_then(|index| holders.get(index as usize).cloned()),
        }
    }
}

/// Memory of a snapshot, without maps and saved state.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Space {
    /// Name of the snapshot.
    snapshot: String,
    /// Memory that only it has.
    own_bytes: u64,
    /// Memory that it shares with other snapshots.
    shared_bytes: u64,
}

impl Space {
    fn of(space: &SnapshotSpace) -> Self {
        Self {
            snapshot: space.name.clone(),
            own_bytes: space.own_bytes,
            shared_bytes: space.shared_bytes,
        }
    }
}

/// Result of a check of the structures of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Path of the pool.
    pool: String,
    /// Errors, as sentences.
    findings: Vec<String>,
    /// Space whose reference counts were compared.
    checked_bytes: u64,
    /// Nodes of maps and of the catalog that were verified.
    checked_node_count: u64,
    /// Snapshots that were checked, with those that were removed and are in use.
    checked_snapshot_count: u64,
}

impl Check {
    /// JSON of a report.
    pub fn of(pool: &Path, report: &CheckReport) -> Self {
        Self {
            pool: path_text(pool),
            findings: report.findings.clone(),
            checked_bytes: blocks_bytes(report.blocks_checked),
            checked_node_count: report.nodes_checked,
            checked_snapshot_count: report.snapshots_checked,
        }
    }
}

/// Result of a scrub.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Scrub {
    /// Path of the pool.
    pool: String,
    /// Size of a block.
    block_bytes: u64,
    /// Data that matches its digests.
    verified_bytes: u64,
    /// Data that had no digests and has them now.
    digested_bytes: u64,
    /// Data that does not match its digests, or cannot be read.
    damaged_bytes: u64,
    /// Frames with damaged data, counted for each snapshot.
    damaged_frame_count: u64,
    /// These frames, the first thousand.
    damaged_frames: Vec<Damaged>,
    /// Damaged maps and saved states, as sentences.
    findings: Vec<String>,
    /// Snapshots that were read to their end.
    snapshot_count: u32,
    /// Snapshots that were removed meanwhile.
    gone_count: u32,
    /// True if the scrub ended before all was read.
    interrupted: bool,
}

impl Scrub {
    /// JSON of a report.
    pub fn of(pool: &Path, report: &ScrubReport) -> Self {
        Self {
            pool: path_text(pool),
            block_bytes: BLOCK_SIZE_BYTES,
            verified_bytes: blocks_bytes(report.blocks_verified),
            digested_bytes: blocks_bytes(report.digests_made),
            damaged_bytes: blocks_bytes(report.blocks_damaged),
            damaged_frame_count: report.frames_damaged,
            damaged_frames: report.damaged.iter().map(Damaged::of).collect(),
            findings: report.findings.clone(),
            snapshot_count: report.snapshots_done,
            gone_count: report.snapshots_gone,
            interrupted: report.interrupted,
        }
    }
}

/// Damaged frame of a snapshot, or block of a disk.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Damaged {
    /// Name of the snapshot; null: it is of a disk of the pool, outside of snapshots.
    pub snapshot: Option<String>,
    /// Name of the disk; null: it is of memory.
    pub disk: Option<String>,
    /// Number of the frame in the memory of the snapshot, or in the disk.
    pub frame: u64,
    /// Guest frame number (GFN); null: it is of a disk.
    pub gfn: Option<u64>,
    /// Offset in the disk; null: it is of memory.
    pub disk_offset_bytes: Option<u64>,
    /// Number of the block that holds it.
    block: u32,
    /// True if the medium cannot read the block.
    unreadable: bool,
}

impl Damaged {
    /// JSON of a frame.
    pub fn of(damaged: &DamagedFrame) -> Self {
        let disk = match damaged.map {
            MapKind::Memory => None,
            MapKind::Disk(name) => Some(name.as_str().to_owned()),
        };
        let offset = damaged.frame * BLOCK_SIZE_BYTES;
        Self {
            snapshot: (!damaged.is_disk).then(|| damaged.snapshot.clone()),
            frame: damaged.frame,
            gfn: disk.is_none().then(|| gpa_of(offset) / BLOCK_SIZE_BYTES),
            disk_offset_bytes: disk.is_some().then_some(offset),
            disk,
            block: damaged.block.get(),
            unreadable: damaged.unreadable,
        }
    }
}

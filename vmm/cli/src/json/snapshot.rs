//! Snapshots: taken, listed, compared, removed, adopted, exported.

use nvvmm::checkpoint::report::SnapshotReport;
use nvvmm_snapshot::SnapshotEntry;
use serde::Serialize;

use super::{Phase, blocks_bytes, rfc3339, whole_us, word};

/// Snapshot of a pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// Name of the snapshot.
    snapshot: String,
    /// Id of the snapshot in its pool.
    snapshot_id: u64,
    /// Id of the snapshot that it was taken after. That one may be gone.
    parent_id: Option<u64>,
    /// Kind of the snapshot.
    #[cfg_attr(test, schemars(extend("enum" = ["vm", "process", "disks"])))]
    kind: String,
    /// Time of its commit, in UTC (RFC 3339).
    created: String,
    /// The same time in nanoseconds since 1970, as digits.
    created_unix_ns: String,
    /// Size of its memory.
    memory_bytes: u64,
    /// Memory that has blocks of the pool. The rest reads as zeros.
    mapped_bytes: u64,
    /// Memory that was written since the snapshot before.
    new_bytes: u64,
    /// Size of the saved state.
    state_bytes: u64,
    /// Space that the removal of the snapshot frees. Null if it was not counted.
    own_bytes: Option<u64>,
    /// Memory that it shares with other snapshots. Null if it was not counted.
    shared_bytes: Option<u64>,
    /// Identity that it has in any pool.
    identity: String,
    /// Root of the hash tree over memory and state. Null if it was not computed.
    content_root: Option<String>,
    /// True if only a part of it was received.
    incomplete: bool,
    /// True if it came from elsewhere and was not adopted.
    foreign: bool,
}

impl Snapshot {
    /// JSON of an entry of the catalog.
    pub fn of(entry: &SnapshotEntry) -> Self {
        Self {
            snapshot: entry.name.clone(),
            snapshot_id: entry.id.get(),
            parent_id: entry.parent.map(|id| id.get()),
            kind: match entry.has_disks_only() {
                true => "disks".to_owned(),
                false => word(&entry.kind),
            },
            created: rfc3339(entry.created_unix_ns),
            created_unix_ns: entry.created_unix_ns.to_string(),
            memory_bytes: match entry.has_disks_only() {
                true => 0,
                false => entry.memory_bytes,
            },
            mapped_bytes: blocks_bytes(entry.frames_mapped),
            new_bytes: blocks_bytes(entry.frames_new),
            state_bytes: entry.state_bytes,
            own_bytes: entry.own_bytes,
            shared_bytes: entry.shared_bytes,
            identity: word(&entry.identity),
            content_root: entry.content_root.map(|root| word(&root)),
            incomplete: entry.incomplete,
            foreign: entry.foreign,
        }
    }

    /// JSON of a list.
    pub fn all(entries: &[SnapshotEntry]) -> Vec<Self> {
        entries.iter().map(Self::of).collect()
    }
}

/// Report of a snapshot of a whole VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Taken {
    /// Kind of the snapshot: of the whole VM, or of its disks only.
    #[cfg_attr(test, schemars(extend("enum" = ["vm", "disks"])))]
    kind: &'static str,
    /// Name of the VM.
    vm: String,
    /// Name of the new snapshot.
    snapshot: String,
    /// Durability of the snapshot.
    #[cfg_attr(test, schemars(extend("enum" = ["process", "host", "power"])))]
    durability: String,
    /// Time for which the vCPUs stood still.
    pause_us: u64,
    /// Longest time for which a guest access was held, from the request to the commit.
    held_max_us: u64,
    /// Time from the request to the commit.
    total_us: u64,
    /// Phases in their order.
    phases: Vec<Phase>,
    /// Memory that has blocks of the pool.
    mapped_bytes: u64,
    /// Memory that was not in the snapshot before.
    new_bytes: u64,
    /// Memory that was copied for the snapshot. A frame counts each time that it is copied.
    copied_bytes: u64,
    /// Part of it that was copied while the vCPUs stood still.
    copied_paused_bytes: u64,
    /// ioctl(2) calls on guest RAM while the vCPUs stood still.
    ioctl_paused_count: u64,
    /// mmap(2) calls over guest RAM while the vCPUs stood still.
    mmap_paused_count: u64,
    /// Size of the saved state of the machine.
    state_bytes: u64,
    /// Metadata that was written: maps, inode and state.
    metadata_bytes: u64,
    /// Memory whose digests were computed (--verify).
    digested_bytes: Option<u64>,
    /// Disks that the guest can write and that are not in the snapshot.
    outside_disks: Vec<OutsideDisk>,
}

/// Disk that the guest can write and that is not in the snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OutsideDisk {
    /// Path of the disk on the host.
    path: String,
    /// True if a restore can tell that the disk was written since. Of a block device it cannot.
    checked: bool,
}

impl Taken {
    /// JSON of a report.
    pub fn of(vm: &str, report: &SnapshotReport) -> Self {
        Self {
            kind: match report.disks_only {
                true => "disks",
                false => "vm",
            },
            vm: vm.to_owned(),
            snapshot: report.name.clone(),
            durability: word(&report.durability),
            pause_us: whole_us(report.pause_us),
            held_max_us: whole_us(report.held_us_max),
            total_us: whole_us(report.total_us),
            phases: Phase::all(&report.phases),
            mapped_bytes: blocks_bytes(report.frames_mapped),
            new_bytes: blocks_bytes(report.frames_new),
            copied_bytes: blocks_bytes(report.frames_copied),
            copied_paused_bytes: blocks_bytes(report.frames_copied_paused),
            ioctl_paused_count: report.ioctls_paused,
            mmap_paused_count: report.mmaps_paused,
            state_bytes: report.state_bytes,
            metadata_bytes: blocks_bytes(report.metadata_blocks),
            digested_bytes: report.digests_made.map(blocks_bytes),
            outside_disks: { report.outside_disks.iter() }
                .map(|disk| OutsideDisk {
                    path: disk.path.clone(),
                    checked: disk.checked,
                })
                .collect(),
        }
    }
}

/// Removal of a snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Removed {
    /// Name that the snapshot had.
    pub snapshot: String,
    /// Space that is free now.
    pub freed_bytes: u64,
    /// True if a VM still uses the snapshot: its space becomes free later.
    pub deferred: bool,
}

/// Result of an adoption.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Adopted {
    /// Name of the snapshot.
    pub snapshot: String,
    /// False if the snapshot did not come from elsewhere.
    pub adopted: bool,
    /// Things of this host that a restore of the snapshot obeys from now on.
    pub trusted: Vec<String>,
}

/// Report of an export.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exported {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Path of the core file.
    pub core: String,
    /// Size of the core file.
    pub size_bytes: u64,
    /// Number of program headers by virtual address.
    pub virtual_range_count: u64,
    /// True if the page tables of the guest map more than the core file has.
    pub cut_off: bool,
    /// Release of the Linux in the guest, if it tells.
    pub linux: Option<String>,
}

/// Differences of two snapshots.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Difference {
    /// Name of the first snapshot.
    pub from: String,
    /// Name of the second snapshot.
    pub to: String,
    /// Kind of both.
    #[cfg_attr(test, schemars(extend("enum" = ["vm", "process"])))]
    pub kind: String,
    /// Size of a block.
    pub block_bytes: u64,
    /// Memory in blocks that both have.
    pub shared_bytes: u64,
    /// Memory that is equal, in blocks of their own.
    pub alike_bytes: u64,
    /// Memory that differs.
    pub different_bytes: u64,
    /// Frames that differ, in order.
    pub different: Vec<FrameRange>,
}

/// Frames that follow each other.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FrameRange {
    /// Name of the disk that they are of. Null for memory.
    pub disk: Option<String>,
    /// The first: its guest frame number (GFN), its page number in a process image, or the number
    /// of its block on a disk.
    pub first_frame: u64,
    /// Length of the range.
    pub length_blocks: u64,
}

//! Disks of a pool.

use nvvmm_snapshot::{DiskEntry, MapEntry, MapKind, SnapshotEntry};
use serde::Serialize;

use super::{blocks_bytes, rfc3339, word};

/// Disk of a pool, or of a snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    /// Name of the disk.
    disk: String,
    /// Snapshot that has the disk. Null for a disk of the pool.
    snapshot: Option<String>,
    /// Id of the disk in its pool. Null for a disk of a snapshot.
    disk_id: Option<u64>,
    /// Size of the disk.
    size_bytes: u64,
    /// Space of its blocks. The rest reads as zeros.
    used_bytes: u64,
    /// Space that the removal of the disk frees. Null if it was not counted.
    own_bytes: Option<u64>,
    /// Time at which the disk was made, or its snapshot was taken, in UTC (RFC 3339).
    created: String,
    /// The same time in nanoseconds since 1970, as digits.
    created_unix_ns: String,
    /// Identity that the disk, or its snapshot, has in any pool.
    identity: String,
    /// True if it came from elsewhere.
    foreign: bool,
    /// Name and process of the VM that writes to it. Null if there is none.
    writer: Option<String>,
}

impl Disk {
    /// JSON of a disk of the pool.
    pub fn of(entry: &DiskEntry) -> Self {
        Self {
            disk: entry.name.clone(),
            snapshot: None,
            disk_id: Some(entry.id.get()),
            size_bytes: entry.size_bytes,
            used_bytes: blocks_bytes(entry.blocks),
            own_bytes: entry.own_bytes,
            created: rfc3339(entry.created_unix_ns),
            created_unix_ns: entry.created_unix_ns.to_string(),
            identity: word(&entry.identity),
            foreign: entry.foreign,
            writer: entry.writer.clone(),
        }
    }

    /// JSON of a disk that a snapshot has. None for its memory.
    pub fn of_snapshot(entry: &SnapshotEntry, map: &MapEntry) -> Option<Self> {
        let MapKind::Disk(disk) = map.kind else {
            return None;
        };
        Some(Self {
            disk: disk.to_string(),
            snapshot: Some(entry.name.clone()),
            disk_id: None,
            size_bytes: map.size_bytes,
            used_bytes: blocks_bytes(map.frames),
            own_bytes: None,
            created: rfc3339(entry.created_unix_ns),
            created_unix_ns: entry.created_unix_ns.to_string(),
            identity: word(&entry.identity),
            foreign: entry.foreign,
            writer: None,
        })
    }
}

/// Disk that was removed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemovedDisk {
    /// Name of the disk.
    pub disk: String,
    /// Space that was freed.
    pub freed_bytes: u64,
}

/// Disk that was written as an image.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExportedDisk {
    /// Name of the disk.
    pub disk: String,
    /// Snapshot that has the disk. Null for a disk of the pool.
    pub snapshot: Option<String>,
    /// Path of the image.
    pub image: String,
    /// Form of the image.
    #[cfg_attr(test, schemars(extend("enum" = ["raw", "qcow2"])))]
    pub format: &'static str,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Size of the file, holes included.
    pub image_bytes: u64,
}

//! Values of arguments about disks of the pool: names, places, sizes.

use nvvmm_snapshot::SizeText;

use crate::names::{NamePattern, is_pattern};
use crate::values::{self, NewSize};

/// Bytes of a sector, of which a disk has a whole number.
pub const SECTOR_BYTES: u64 = 512;
/// The largest size of a disk.
pub const DISK_BYTES_MAX: u64 = 32 << 40;

/// A disk of the pool, or of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    /// The snapshot that has it. None for a disk of the pool.
    pub snapshot: Option<String>,
    /// Name of the disk.
    pub disk: String,
}

impl std::fmt::Display for DiskPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{snapshot}:{}", self.disk),
            None => f.write_str(&self.disk),
        }
    }
}

/// `NAME`, or `SNAPSHOT:NAME`.
pub fn disk_place(text: &str) -> Result<DiskPlace, String> {
    let (snapshot, disk) = match text.split_once(':') {
        Some((snapshot, disk)) => {
            let snapshot = values::snapshot_name(snapshot);
            let snapshot = snapshot.map_err(|fault| format!("in the snapshot's name: {fault}"))?;
            (Some(snapshot), disk)
        }
        None => (None, text),
    };
    let disk = disk_name(disk)?;
    Ok(DiskPlace { snapshot, disk })
}

/// The name of a disk: as that of a snapshot.
pub fn disk_name(text: &str) -> Result<String, String> {
    values::snapshot_name(text)
}

/// The name of a disk, or a pattern of such names.
pub fn disk_names(text: &str) -> Result<NamePattern, String> {
    values::snapshot_names(text)
}

/// The name of a disk that is to be made.
pub fn new_disk_name(text: &str) -> Result<String, String> {
    match is_pattern(text) {
        true => Err("a new disk has one name, and no pattern".to_owned()),
        false => disk_name(text),
    }
}

/// The size of a disk: a multiple of 512 bytes, up to 32 TiB.
pub fn disk_size(text: &str) -> Result<u64, String> {
    let bytes = values::bytes(text, DISK_BYTES_MAX)?;
    if bytes == 0 {
        return Err("a disk has 512 bytes at least: for example 20G".to_owned());
    }
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        let below = bytes / SECTOR_BYTES * SECTOR_BYTES;
        return Err(format!(
            "{} ({bytes} bytes) is not a multiple of 512: the nearest sizes are {below} and {}",
            SizeText::of(bytes),
            below + SECTOR_BYTES
        ));
    }
    Ok(bytes)
}

/// A size as of [`disk_size`], or `+` and by how much.
pub fn new_disk_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => disk_size(more).map(NewSize::More),
        None => disk_size(text).map(NewSize::Whole),
    }
}

#[cfg(test)]
#[path = "place_test.rs"]
mod place_test;

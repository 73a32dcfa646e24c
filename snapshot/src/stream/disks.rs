//! Disks in a stream's header.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::name_in;
use crate::error::{Error, Result};
use crate::layout::inode::{DISKS_MAX, MapKind, disk_height};
use crate::name::{DiskName, NAME_BYTES_MAX};
use crate::number::BLOCK_SIZE_BYTES;

/// A disk as it is in a header. An unused row is zero.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct StreamDiskV1 {
    pub(crate) size_bytes: U64,
    pub(crate) name_bytes: U32,
    pub(crate) reserved: U32,
    pub(crate) name: [u8; NAME_BYTES_MAX],
}

/// The disks of a header.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DisksV1 {
    pub(crate) count: U32,
    pub(crate) reserved: U32,
    pub(crate) rows: [StreamDiskV1; DISKS_MAX],
}

const _: () = assert!(size_of::<DisksV1>() == 1160);

/// A disk of the snapshot that a stream is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamDisk {
    /// Its name; no two disks of a stream have the same.
    pub name: DiskName,
    /// Its size, a multiple of 512.
    pub size_bytes: u64,
}

impl StreamDisk {
    /// The kind of its map.
    pub fn kind(&self) -> MapKind {
        MapKind::Disk(self.name)
    }

    /// Blocks of the disk. The last one may be partial.
    pub fn frames_total(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_SIZE_BYTES)
    }
}

/// The bytes of the disks of a header.
pub(super) fn encode(disks: &[StreamDisk]) -> Result<DisksV1> {
    check(disks)?;
    let mut raw = DisksV1::new_zeroed();
    raw.count = (disks.len() as u32).into();
    for (row, disk) in raw.rows.iter_mut().zip(disks) {
        let name = disk.name.as_str();
        row.size_bytes = disk.size_bytes.into();
        row.name_bytes = (name.len() as u32).into();
        row.name[..name.len()].copy_from_slice(name.as_bytes());
    }
    Ok(raw)
}

/// Decodes the disks of a header. There is at least one.
pub(super) fn decode(raw: &DisksV1) -> Result<Vec<StreamDisk>> {
    let count = raw.count.get() as usize;
    let rows = raw.rows.split_at_checked(count).filter(|_| count > 0);
    let (rows, unused) = rows.ok_or_else(|| fault("an impossible number of disks"))?;
    let is_zero = |row: &StreamDiskV1| row.as_bytes().iter().all(|byte| *byte == 0);
    if raw.reserved != 0 || !unused.iter().all(is_zero) {
        return Err(fault("an unused row of a disk that is not empty"));
    }
    let disks = rows.iter().map(row).collect::<Result<Vec<_>>>()?;
    check(&disks)?;
    Ok(disks)
}

fn row(raw: &StreamDiskV1) -> Result<StreamDisk> {
    let bytes = u8::try_from(raw.name_bytes.get()).ok();
    let name = bytes.and_then(|bytes| name_in(&raw.name, bytes));
    let name = name.and_then(|name| DiskName::new(&name).ok());
    let name = name.filter(|_| raw.reserved == 0);
    Ok(StreamDisk {
        name: name.ok_or_else(|| fault("an impossible name of a disk"))?,
        size_bytes: raw.size_bytes.get(),
    })
}

fn check(disks: &[StreamDisk]) -> Result<()> {
    for (at, disk) in disks.iter().enumerate() {
        if disks[..at].iter().any(|known| known.name == disk.name) {
            return Err(fault("two disks of one name"));
        }
        disk_height(disk.name.as_str(), disk.size_bytes)
            .map_err(|_| fault("an impossible size of a disk"))?;
    }
    match disks.len() <= DISKS_MAX {
        true => Ok(()),
        false => Err(fault("too many disks")),
    }
}

fn fault(what: &str) -> Error {
    Error::stream_damaged(format!("its header has {what}"))
}

#[cfg(test)]
#[path = "disks_test.rs"]
mod disks_test;

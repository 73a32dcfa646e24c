//! The disks in an inode: those of a snapshot, and the head of a disk.

use super::Layout;
use super::inode::{DISKS_MAX, DiskPart, DiskRowV1, FileMap, HeadPlace, Inode, InodeV2, MapKind};
use super::node::{Entry, NodeKind};
use crate::error::{Error, Result};
use crate::name::DiskName;
use crate::number::{BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES};

impl Inode {
    /// The first map, once the list of maps is one that the format can express.
    pub(super) fn first_map(&self) -> Result<&FileMap> {
        let names: Vec<&DiskName> = self.maps.iter().skip(1).filter_map(FileMap::disk).collect();
        let all_named = names.len() + 1 == self.maps.len() && names.len() <= DISKS_MAX;
        let distinct = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
        let first = self.maps.first().filter(|map| match &self.disk {
            None => map.kind == MapKind::Memory,
            Some(_) => map.disk().is_some_and(|name| name.as_str() == self.name),
        });
        let fits = all_named && distinct && (self.disk.is_none() || self.maps.len() == 1);
        first.filter(|_| fits).ok_or_else(|| {
            Error::invalid(format!(
                "the format has files with a map of memory and then those of at most {DISKS_MAX} \
                 disks, or with one of a disk; this one has {} maps",
                self.maps.len()
            ))
        })
    }

    pub(super) fn seal_disks(&self, raw: &mut InodeV2) {
        if let Some(head) = self.head() {
            raw.head_id = head.id.into();
            raw.head_slot = head.slot.into();
            raw.head_nonce = head.nonce.into();
            raw.head_base = head.base.into();
            raw.log_blocks = (head.log.len() as u32).into();
        }
        let disks = self.maps.iter().skip(1);
        raw.disk_count = (disks.len() as u32).into();
        for (row, map) in raw.disks.iter_mut().zip(disks) {
            let name = map.disk().map_or("", DiskName::as_str);
            row.size_bytes = map.size_bytes().into();
            row.map_root = map.root.to_raw().into();
            row.frames_mapped = map.frames().into();
            row.map_height = map.height().into();
            row.name_bytes = (name.len() as u32).into();
            row.name[..name.len()].copy_from_slice(name.as_bytes());
        }
    }
}

/// The maps of a snapshot's disks.
pub(super) fn open_rows(
    raw: &InodeV2,
    layout: &Layout,
    fault: &dyn Fn(&str) -> Error,
) -> Result<Vec<FileMap>> {
    let count = raw.disk_count.get() as usize;
    let rows = raw
        .disks
        .get(..count)
        .filter(|_| count == 0 || raw.log_blocks == 0);
    let rows = rows.ok_or_else(|| fault("impossible number of disks"))?;
    let mut maps: Vec<FileMap> = Vec::new();
    for row in rows {
        let map = open_row(row, layout).map_err(|_| fault("an impossible row of a disk"))?;
        if maps.iter().any(|known| known.kind == map.kind) {
            return Err(fault("two disks of one name"));
        }
        maps.push(map);
    }
    Ok(maps)
}

fn open_row(row: &DiskRowV1, layout: &Layout) -> Result<FileMap> {
    let impossible = || Error::damaged("an impossible row of a disk");
    let name = row.name.get(..row.name_bytes.get() as usize);
    let name = name.and_then(|name| std::str::from_utf8(name).ok());
    let name = DiskName::new(name.ok_or_else(impossible)?)?;
    let map = FileMap::new(MapKind::Disk(name), row.size_bytes.get(), Entry::Hole)?;
    let frames_max = map.size_bytes().div_ceil(CHUNK_SIZE_BYTES) * u64::from(CHUNK_BLOCKS);
    if row.map_height != map.height() || row.frames_mapped.get() > frames_max {
        return Err(impossible());
    }
    let root = Entry::from_raw(row.map_root.get(), map.height(), NodeKind::Memory, layout)?;
    Ok(map.with_root(root).with_frames(row.frames_mapped.get()))
}

/// The part of an inode that only a disk has.
pub(super) fn open_head(
    raw: &InodeV2,
    log: Vec<BlockNo>,
    fault: &dyn Fn(&str) -> Error,
) -> Result<DiskPart> {
    let (id, count) = (raw.head_id.get(), raw.disk_count.get());
    // A log has a block in front of those with records.
    if count != 0 || (id == 0) != log.is_empty() || log.len() == 1 {
        return Err(fault("impossible head of a disk"));
    }
    let head = (id != 0).then(|| HeadPlace {
        id,
        slot: raw.head_slot.get(),
        nonce: raw.head_nonce.get(),
        base: raw.head_base.get(),
        log,
    });
    if head
        .as_ref()
        .is_some_and(|head| head.slot >= super::HOLDER_SLOTS)
    {
        return Err(fault("impossible slot of a head"));
    }
    Ok(DiskPart { head })
}

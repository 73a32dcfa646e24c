//! Inodes: the catalog's entries of snapshots, process images and incomplete receptions.

use std::mem::{offset_of, size_of};

use serde::Serialize;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Layout;
use super::node::{Entry, NodeKind, height_for};
use crate::error::{Error, Result};
use crate::identity::{ContentRoot, Identity};
use crate::name::{DiskName, NAME_BYTES_MAX, check_name};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, SnapshotId};

/// The first bytes of every inode.
pub(crate) const INODE_MAGIC: [u8; 4] = *b"NVIN";
/// Version of the inodes' format.
pub(crate) const INODE_VERSION: u16 = 2;
/// Flag: removed, and kept only as long as it is pinned.
pub(crate) const FLAG_ORPHAN: u32 = 1;
/// Flag: not all of it has been received yet.
pub(crate) const FLAG_INCOMPLETE: u32 = 2;
/// Flag: it came from elsewhere, and its owner has not adopted it. Since format version 6.
pub(crate) const FLAG_FOREIGN: u32 = 4;
const FLAGS: u32 = FLAG_ORPHAN | FLAG_INCOMPLETE | FLAG_FOREIGN;
/// Disks that a snapshot can have.
pub const DISKS_MAX: usize = 8;
/// `kind` of a disk's inode.
pub(crate) const KIND_DISK: u8 = 3;
/// Unit of a disk's size.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Blocks that a state blob may have.
pub(crate) const STATE_BLOCKS_MAX: usize = 512;
/// Largest state blob: 2 MiB.
pub(crate) const STATE_BYTES_MAX: usize = STATE_BLOCKS_MAX * BLOCK_SIZE_BYTES as usize;
/// Most memory a snapshot can have: 32 TiB.
pub(crate) const MEMORY_BYTES_MAX: u64 = CHUNK_SIZE_BYTES << 24;

/// The kind of a snapshot: of a VM, or of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SnapshotKind {
    /// A VM: its memory, by frame number, and the state of its machine.
    Vm = 1,
    /// Processes of a guest: their pages, by a number that the image gives them, and all else that
    /// they are.
    Process = 2,
}

impl SnapshotKind {
    pub(crate) fn from_raw(raw: u8) -> Option<SnapshotKind> {
        [SnapshotKind::Vm, SnapshotKind::Process]
            .into_iter()
            .find(|kind| *kind as u8 == raw)
    }
}

impl std::fmt::Display for SnapshotKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            SnapshotKind::Vm => "snapshot of a VM",
            SnapshotKind::Process => "process image",
        })
    }
}

/// The kind of what a map of a file is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MapKind {
    /// Memory: of a guest, by RAM offset, or the pages of a process image. Every snapshot has it.
    #[default]
    Memory,
    /// A disk: of a VM, at the instant of the snapshot.
    Disk(DiskName),
}

impl std::fmt::Display for MapKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MapKind::Memory => out.write_str("memory"),
            MapKind::Disk(name) => write!(out, "disk '{name}'"),
        }
    }
}

/// One of a file's maps: the blocks that hold each chunk of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMap {
    pub(crate) kind: MapKind,
    pub(crate) root: Entry,
    size_bytes: u64,
    height: u32,
    /// Frames that have a block, of a disk; 0 of memory.
    frames: u64,
}

impl FileMap {
    /// The map of something of this size.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] for a size that no map can have.
    pub(crate) fn new(kind: MapKind, size_bytes: u64, root: Entry) -> Result<FileMap> {
        Ok(FileMap {
            kind,
            root,
            size_bytes,
            height: match kind {
                MapKind::Memory => map_height(size_bytes)?,
                MapKind::Disk(name) => disk_height(name.as_str(), size_bytes)?,
            },
            frames: 0,
        })
    }

    /// The same map of a disk with another number of frames that have a block.
    pub(crate) fn with_frames(&self, frames: u64) -> FileMap {
        FileMap { frames, ..*self }
    }

    /// The same map of a disk under another name.
    pub(crate) fn renamed(&self, name: DiskName) -> FileMap {
        let kind = MapKind::Disk(name);
        FileMap { kind, ..*self }
    }

    /// Frames of a disk's map that have a block.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The name of the disk that it is of.
    pub(crate) fn disk(&self) -> Option<&DiskName> {
        match &self.kind {
            MapKind::Memory => None,
            MapKind::Disk(name) => Some(name),
        }
    }

    /// The same map with another root.
    pub(crate) fn with_root(&self, root: Entry) -> FileMap {
        FileMap { root, ..*self }
    }

    /// Size of what is mapped.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Inner levels of the map.
    pub(crate) fn height(&self) -> u32 {
        self.height
    }

    /// Chunks of what is mapped, holes included.
    pub(crate) fn chunks_total(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(CHUNK_SIZE_BYTES)).unwrap_or(u32::MAX)
    }
}

/// The one map that a snapshot is committed with, but for its disks: that of memory.
///
/// # Errors
/// [`Error::InvalidSnapshot`] for any other list.
pub(crate) fn only_map<M: Copy>(maps: &[M], kind: impl Fn(&M) -> MapKind) -> Result<M> {
    match maps {
        [map] if kind(map) == MapKind::Memory => Ok(*map),
        _ => Err(Error::invalid(format!(
            "a snapshot has one map of memory, and then those of its disks; this one has {} maps",
            maps.len()
        ))),
    }
}

/// An inode as it is in its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeV2 {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U16,
    pub(crate) kind: u8,
    pub(crate) reserved0: u8,
    pub(crate) block: U32,
    pub(crate) checksum: U32,
    pub(crate) generation: U64,
    pub(crate) id: U64,
    pub(crate) parent: U64,
    pub(crate) created_unix_ns: U64,
    pub(crate) memory_bytes: U64,
    pub(crate) map_root: U64,
    pub(crate) map_height: U32,
    pub(crate) flags: U32,
    pub(crate) frames_mapped: U64,
    pub(crate) frames_new: U64,
    pub(crate) state_bytes: U32,
    pub(crate) state_checksum: U32,
    pub(crate) slot: U32,
    pub(crate) name_bytes: U32,
    pub(crate) name: [u8; 256],
    pub(crate) identity: [u8; 16],
    pub(crate) content_root: [u8; 32],
    pub(crate) disk_count: U32,
    pub(crate) head_slot: U32,
    pub(crate) head_nonce: U32,
    pub(crate) log_blocks: U32,
    pub(crate) head_id: U64,
    pub(crate) head_base: U64,
    pub(crate) reserved1: [u8; 72],
    pub(crate) disks: [DiskRowV1; DISKS_MAX],
    pub(crate) state_blocks: [U32; STATE_BLOCKS_MAX],
}

/// The map of a disk in the inode of a snapshot. An unused row is zero.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DiskRowV1 {
    pub(crate) size_bytes: U64,
    pub(crate) map_root: U64,
    pub(crate) frames_mapped: U64,
    pub(crate) map_height: U32,
    pub(crate) name_bytes: U32,
    pub(crate) reserved: [u8; 32],
    pub(crate) name: [u8; NAME_BYTES_MAX],
}

const _: () = assert!(size_of::<DiskRowV1>() == 192);
const _: () = assert!(size_of::<InodeV2>() == 4096);
const _: () = assert!(offset_of!(InodeV2, disks) == 512);
const _: () = assert!(offset_of!(InodeV2, checksum) == 12);
const _: () = assert!(offset_of!(InodeV2, state_blocks) == 2048);

/// Offset of the checksum in an inode's block.
pub(crate) const CHECKSUM_OFFSET: u64 = offset_of!(InodeV2, checksum) as u64;

/// The writer of a disk, and where it logs what it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadPlace {
    /// No two heads of a pool have the same.
    pub(crate) id: u64,
    /// The slot of the holder that has it.
    pub(crate) slot: u32,
    /// And which of the slot's holders that is.
    pub(crate) nonce: u32,
    /// The last record that the map has.
    pub(crate) base: u64,
    /// The blocks of the log, in order.
    pub(crate) log: Vec<BlockNo>,
}

/// The part of an inode that only disks have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DiskPart {
    /// The head that writes to the disk, or did so last and was not ended in order.
    pub(crate) head: Option<HeadPlace>,
}

/// An inode, decoded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) id: SnapshotId,
    pub(crate) kind: SnapshotKind,
    pub(crate) name: String,
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) created_unix_ns: u64,
    /// For a disk, which `kind` says nothing about.
    pub(crate) disk: Option<DiskPart>,
    /// One map of each kind at most; that of memory is first. A disk has one, of itself.
    pub(crate) maps: Vec<FileMap>,
    pub(crate) orphan: bool,
    /// True when only a part was received. Such a file cannot be used.
    pub(crate) incomplete: bool,
    /// True when it was received, or taken of a VM that was, and was not adopted.
    pub(crate) foreign: bool,
    pub(crate) identity: Identity,
    /// The root of the hash tree over all that it is, once that was computed.
    pub(crate) content_root: Option<ContentRoot>,
    /// Frames of all maps that have a block.
    pub(crate) frames_mapped: u64,
    pub(crate) frames_new: u64,
    pub(crate) state_bytes: u32,
    pub(crate) state_checksum: u32,
    pub(crate) state_blocks: Vec<BlockNo>,
}

/// Inner levels of the map of so many bytes.
pub(crate) fn map_height(memory_bytes: u64) -> Result<u32> {
    let chunks = memory_bytes.div_ceil(CHUNK_SIZE_BYTES);
    let fits = memory_bytes > 0
        && memory_bytes.is_multiple_of(BLOCK_SIZE_BYTES)
        && memory_bytes <= MEMORY_BYTES_MAX;
    height_for(chunks).filter(|_| fits).ok_or_else(|| {
        Error::invalid(format!(
            "a memory size of {memory_bytes} bytes is not a multiple of 4096 from 4096 up to 32 TiB"
        ))
    })
}

/// Inner levels of the map of a disk of so many bytes.
pub(crate) fn disk_height(name: &str, size_bytes: u64) -> Result<u32> {
    let fits =
        size_bytes > 0 && size_bytes.is_multiple_of(SECTOR_BYTES) && size_bytes <= MEMORY_BYTES_MAX;
    height_for(size_bytes.div_ceil(CHUNK_SIZE_BYTES))
        .filter(|_| fits)
        .ok_or_else(|| {
            Error::invalid_disk(
                name,
                format!("{size_bytes} bytes are no multiple of 512 from 512 up to 32 TiB"),
            )
        })
}

impl Inode {
    /// The map of a disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what is no disk.
    pub(crate) fn disk_map(&self) -> Result<&FileMap> {
        let map = self.maps.first().filter(|_| self.disk.is_some());
        map.ok_or_else(|| Error::damaged(format!("'{}' is no disk", self.name)))
    }

    /// The head of a disk that has one.
    pub(crate) fn head(&self) -> Option<&HeadPlace> {
        self.disk.as_ref()?.head.as_ref()
    }

    /// The map has records of the head up to this one.
    pub(crate) fn advance_head(&mut self, upto: u64) {
        if let Some(head) = self.disk.as_mut().and_then(|disk| disk.head.as_mut()) {
            head.base = head.base.max(upto);
        }
    }

    /// Frames of memory that have a block.
    pub(crate) fn frames_of_memory(&self) -> u64 {
        let of_disks: u64 = self.disk_maps().map(FileMap::frames).sum();
        self.frames_mapped.saturating_sub(of_disks)
    }

    /// The maps of a snapshot's disks.
    pub(crate) fn disk_maps(&self) -> impl Iterator<Item = &FileMap> {
        self.maps.iter().filter(|map| map.disk().is_some())
    }

    /// The map of a snapshot's disk of this name.
    pub(crate) fn disk_named(&self, name: &str) -> Option<&FileMap> {
        let has_name = |map: &&FileMap| map.disk().is_some_and(|disk| disk.as_str() == name);
        self.maps.iter().find(has_name)
    }

    /// The map of this kind, if the file has one.
    pub(crate) fn map(&self, kind: MapKind) -> Option<&FileMap> {
        self.maps.iter().find(|map| map.kind == kind)
    }

    /// The map of memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a file without one.
    pub(crate) fn memory(&self) -> Result<&FileMap> {
        self.map(MapKind::Memory).ok_or_else(|| {
            Error::damaged(format!("snapshot '{}' has no map of its memory", self.name))
        })
    }

    /// True when a pool of format version 5 cannot keep it.
    pub(crate) fn needs_version_6(&self) -> bool {
        self.foreign || self.content_root.is_some()
    }

    /// True when a pool of format version 7 cannot keep it.
    pub(crate) fn needs_version_8(&self) -> bool {
        self.disk.is_some() || self.maps.len() > 1
    }

    /// True when both are of one kind, with maps of the same kinds and sizes.
    pub(crate) fn has_shape_of(&self, other: &Inode) -> bool {
        let shape = |inode: &Inode| -> Vec<(MapKind, u64)> {
            let maps = inode.maps.iter();
            maps.map(|map| (map.kind, map.size_bytes)).collect()
        };
        self.kind == other.kind && shape(self) == shape(other)
    }

    /// The bytes of the inode for a slot of the catalog.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] for a list of maps that the format cannot express;
    /// [`Error::InvalidName`] for a name that is too long.
    pub(crate) fn seal(&self, slot: u32, block: BlockNo, generation: u64) -> Result<InodeV2> {
        let first = self.first_map()?;
        let mut raw = InodeV2::new_zeroed();
        raw.magic = INODE_MAGIC;
        raw.version = INODE_VERSION.into();
        raw.kind = self.disk.as_ref().map_or(self.kind as u8, |_| KIND_DISK);
        raw.block = block.get().into();
        raw.generation = generation.into();
        raw.id = self.id.get().into();
        raw.parent = self.parent.map_or(0, SnapshotId::get).into();
        raw.created_unix_ns = self.created_unix_ns.into();
        raw.memory_bytes = first.size_bytes.into();
        raw.map_root = first.root.to_raw().into();
        raw.map_height = first.height.into();
        let flags = [
            (self.orphan, FLAG_ORPHAN),
            (self.incomplete, FLAG_INCOMPLETE),
            (self.foreign, FLAG_FOREIGN),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set);
        raw.flags = flags.map(|(_, flag)| flag).sum::<u32>().into();
        raw.identity = self.identity.bytes();
        raw.content_root = self.content_root.map_or([0; 32], ContentRoot::bytes);
        raw.frames_mapped = self.frames_mapped.into();
        raw.frames_new = self.frames_new.into();
        raw.state_bytes = self.state_bytes.into();
        raw.state_checksum = self.state_checksum.into();
        raw.slot = slot.into();
        raw.name_bytes = (self.name.len() as u32).into();
        match raw.name.get_mut(..self.name.len()) {
            Some(place) => place.copy_from_slice(self.name.as_bytes()),
            None => {
                return Err(Error::InvalidName {
                    name: self.name.clone(),
                });
            }
        }
        let blocks = self.head().map_or(&self.state_blocks, |head| &head.log);
        for (place, block) in raw.state_blocks.iter_mut().zip(blocks) {
            *place = block.get().into();
        }
        self.seal_disks(&mut raw);
        raw.checksum = crc32fast::hash(raw.as_bytes()).into();
        Ok(raw)
    }

    /// Verifies and decodes the inode that was read from `block` for a slot of the catalog.
    pub(crate) fn open(
        raw: &mut InodeV2,
        slot: u32,
        block: BlockNo,
        layout: &Layout,
    ) -> Result<Inode> {
        let fault = |what: &str| {
            Error::damaged(format!(
                "{block} is not the inode of catalog slot {slot}: {what}"
            ))
        };
        let checksum = raw.checksum.get();
        raw.checksum = 0.into();
        if raw.magic != INODE_MAGIC {
            return Err(fault("no inode magic"));
        }
        if crc32fast::hash(raw.as_bytes()) != checksum {
            return Err(fault("wrong checksum"));
        }
        let kind = kind_of(raw.kind).ok_or_else(|| fault("unknown kind"))?;
        if raw.version != INODE_VERSION || raw.flags.get() & !FLAGS != 0 {
            return Err(fault("unknown version or flag"));
        }
        if raw.block != block.get() || raw.slot != slot {
            return Err(fault("it carries another block's or slot's number"));
        }
        let name = raw
            .name
            .get(..raw.name_bytes.get() as usize)
            .and_then(|name| std::str::from_utf8(name).ok());
        let name = name
            .filter(|name| check_name(name).is_ok())
            .ok_or_else(|| fault("impossible name"))?;
        let is_disk = raw.kind == KIND_DISK;
        if is_disk && raw.state_bytes != 0 {
            return Err(fault("a disk with a saved state"));
        }
        let (first, maps_bytes) = first_of(raw, name, is_disk, layout, &fault)?;
        let mut maps = vec![first];
        maps.extend(super::inode_disks::open_rows(raw, layout, &fault)?);
        let frames_max = maps_bytes.div_ceil(CHUNK_SIZE_BYTES) * u64::from(CHUNK_BLOCKS)
            + maps[1..].iter().map(FileMap::frames).sum::<u64>();
        if raw.frames_mapped.get().max(raw.frames_new.get()) > frames_max {
            return Err(fault("more frames than its maps have"));
        }
        let mut blocks = blocks_of(raw, is_disk, layout, &fault)?;
        let disk = match is_disk {
            true => Some(super::inode_disks::open_head(
                raw,
                std::mem::take(&mut blocks),
                &fault,
            )?),
            false => None,
        };
        Ok(Inode {
            id: SnapshotId::new(raw.id.get()).ok_or_else(|| fault("no id"))?,
            kind,
            name: name.to_owned(),
            parent: SnapshotId::new(raw.parent.get()),
            created_unix_ns: raw.created_unix_ns.get(),
            disk,
            maps,
            orphan: raw.flags.get() & FLAG_ORPHAN != 0,
            incomplete: raw.flags.get() & FLAG_INCOMPLETE != 0,
            foreign: raw.flags.get() & FLAG_FOREIGN != 0,
            content_root: ContentRoot::from_bytes(raw.content_root),
            identity: Identity::from_bytes(raw.identity).ok_or_else(|| fault("no identity"))?,
            frames_mapped: raw.frames_mapped.get(),
            frames_new: raw.frames_new.get(),
            state_bytes: raw.state_bytes.get(),
            state_checksum: raw.state_checksum.get(),
            state_blocks: blocks,
        })
    }
}

/// The kind of a snapshot. A disk has none of these kinds.
fn kind_of(raw: u8) -> Option<SnapshotKind> {
    match raw {
        KIND_DISK => Some(SnapshotKind::Vm),
        other => SnapshotKind::from_raw(other),
    }
}

/// The blocks of a saved state, or of a log.
fn blocks_of(
    raw: &InodeV2,
    is_disk: bool,
    layout: &Layout,
    fault: &dyn Fn(&str) -> Error,
) -> Result<Vec<BlockNo>> {
    let count = match is_disk {
        true => raw.log_blocks.get() as usize,
        false => (raw.state_bytes.get() as usize).div_ceil(BLOCK_SIZE_BYTES as usize),
    };
    let blocks = raw.state_blocks.get(..count);
    let blocks = blocks.ok_or_else(|| fault("impossible length of its state or log"))?;
    let blocks: Vec<BlockNo> = blocks.iter().map(|n| BlockNo::new(n.get())).collect();
    match blocks.iter().all(|block| layout.is_usable(*block)) {
        true => Ok(blocks),
        false => Err(fault("impossible state block")),
    }
}

/// The first map of an inode, and the size of what it is of.
fn first_of(
    raw: &InodeV2,
    name: &str,
    is_disk: bool,
    layout: &Layout,
    fault: &dyn Fn(&str) -> Error,
) -> Result<(FileMap, u64)> {
    let size_bytes = raw.memory_bytes.get();
    let map_kind = match is_disk {
        true => MapKind::Disk(DiskName::new(name)?),
        false => MapKind::Memory,
    };
    let map = FileMap::new(map_kind, size_bytes, Entry::Hole)
        .map_err(|_| fault("impossible size of its memory or disk"))?;
    if raw.map_height != map.height {
        return Err(fault("the map's height does not fit the memory size"));
    }
    let root = Entry::from_raw(raw.map_root.get(), map.height, NodeKind::Memory, layout)?;
    let frames = if is_disk { raw.frames_mapped.get() } else { 0 };
    Ok((map.with_root(root).with_frames(frames), size_bytes))
}

//! Disks that are only read: pinned, so that nobody changes them.

use std::sync::Arc;

use super::DiskCut;
use super::head::pieces;
use super::leaves::Leaves;
use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::Holder;
use crate::layout::inode::FileMap;
use crate::name::DiskName;
use crate::number::{FrameIndex, SnapshotId};
use crate::overlay::chunk_of;

/// A disk that a holder reads. The holder pins it as long as it lives, or until it unpins
/// [`DiskReader::id`]; this must not be used afterwards.
pub struct DiskReader {
    pool: Arc<Pool>,
    id: SnapshotId,
    name: String,
    map: FileMap,
    frames: FrameMap,
    leaves: Leaves,
}

impl Holder {
    /// Attaches a disk for reading. Nobody can write to it meanwhile; any number can read it.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::DiskInUse`], [`Error::TooManyPins`], [`Error::PoolFull`].
    pub fn attach_disk_read_only(&self, name: &str) -> Result<DiskReader> {
        super::with_room(self.pool(), || {
            let mut lock = CatalogLock::take(self.pool())?;
            let (_, listed) = self.pool().settled_disk(&mut lock, name)?;
            self.pin_disk(&lock, listed.inode.id)?;
            if listed.inode.foreign {
                self.mark_foreign();
            }
            Ok(DiskReader::new(
                self.pool(),
                listed.inode.id,
                name,
                listed.inode.disk_map()?,
            ))
        })
    }

    /// A disk of a snapshot that this holder pins.
    ///
    /// # Errors
    /// [`Error::NotPinned`], [`Error::NoDisk`].
    pub fn disk_of(&self, snapshot: SnapshotId, name: &str) -> Result<DiskReader> {
        let inode = self.pinned_inode(snapshot)?;
        let map = self.pool().disk_map_of(&inode, name)?;
        Ok(DiskReader::new(self.pool(), snapshot, name, map))
    }
}

impl DiskReader {
    fn new(pool: &Arc<Pool>, id: SnapshotId, name: &str, map: &FileMap) -> DiskReader {
        DiskReader {
            pool: Arc::clone(pool),
            id,
            name: name.to_owned(),
            map: *map,
            frames: FrameMap::new(pool, id, map),
            leaves: Leaves::default(),
        }
    }

    /// The disk or snapshot that is pinned.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Name of the disk.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.map.size_bytes()
    }

    /// Its blocks.
    pub fn map(&self) -> &FrameMap {
        &self.frames
    }

    /// Takes the disk for a snapshot, by [`Holder::commit_with_disks`] of the holder that pins it.
    ///
    /// # Errors
    /// [`Error::InvalidName`]: never, as the disk has this name.
    pub fn cut(&self) -> Result<DiskCut> {
        let name = DiskName::new(&self.name)?;
        Ok(DiskCut::pinned(self.id, self.map, name))
    }

    /// Checks that a snapshot has the same disk, with the same content, by this name.
    ///
    /// # Errors
    /// [`Error::NotPinned`], when there is no such snapshot; [`Error::InvalidDisk`].
    pub fn check_is_in(&self, snapshot: SnapshotId, name: &str) -> Result<()> {
        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        let listed = listing.by_id(snapshot);
        let inode = &listed.ok_or(Error::NotPinned { id: snapshot.get() })?.inode;
        let content = |map: &FileMap| (map.root, map.size_bytes());
        match inode.disk_named(name).map(content) == Some(content(&self.map)) {
            true => Ok(()),
            false => Err(Error::invalid_disk(
                &self.name,
                "the snapshot has it with another content".to_owned(),
            )),
        }
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] behind the end; [`Error::Damaged`], [`Error::Io`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes()) {
            let what = format!("{} bytes from {offset} on are behind its end", into.len());
            return Err(Error::invalid_disk(&self.name, what));
        }
        for piece in pieces(offset, into.len()) {
            let into = &mut into[piece.at..piece.at + piece.len];
            let place = FrameIndex::new((piece.frame % 512) as u32);
            match self
                .leaves
                .get(&self.frames, chunk_of(piece.frame))?
                .block(place)
            {
                None => into.fill(0),
                Some(block) => {
                    let offset = block.byte_offset() + piece.start as u64;
                    self.pool.store.region.read(offset, into)?;
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for DiskReader {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DiskReader")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

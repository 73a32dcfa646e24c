//! A disk of the pool as storage of a device.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nvvmm_devices::virtio::{DiskBackend, DiskError, DiskLimits};
use nvvmm_snapshot::{DiskCut, DiskHead, DiskReader, Error, FrameMap, Holder, Pool};
use vm_memory::VolatileSlice;

use super::space::{Space, SpaceListener};

/// Bytes that are copied at once between guest memory and the pool.
const PIECE_BYTES: usize = 1 << 20;

/// A disk of the pool that was made for one VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    /// Goes with the VM, whatever was written to it.
    pub ephemeral: bool,
}

/// The use of the disk: that of its one writer, or of one of its readers.
pub(super) enum Content {
    Written(Arc<DiskHead>),
    Read(Box<DiskReader>),
}

/// An open disk of the pool, which the machines that follow each other in one VM have together.
pub(super) struct PoolDiskFile {
    holder: Arc<Holder>,
    name: String,
    /// The name that it has in snapshots.
    drive: String,
    copy: Option<Copy>,
    pub(super) content: Content,
    /// A snapshot has all of it, and the VM is ending.
    is_saved: AtomicBool,
    space: Space,
    /// Between guest memory and the pool: no lock of the disk is held while guest memory is
    /// touched, which may wait for the pool itself.
    piece: Mutex<Vec<u8>>,
}

/// A disk of the pool, as storage of one device.
pub struct PoolDisk {
    file: Arc<PoolDiskFile>,
    size_bytes: AtomicU64,
}

impl PoolDiskFile {
    pub(super) fn new(
        holder: &Arc<Holder>,
        (name, drive): (String, &str),
        copy: Option<Copy>,
        content: Content,
    ) -> Self {
        Self {
            holder: Arc::clone(holder),
            name,
            drive: drive.to_owned(),
            copy,
            content,
            is_saved: AtomicBool::new(false),
            space: Space::default(),
            piece: Mutex::default(),
        }
    }

    fn size_bytes(&self) -> u64 {
        match &self.content {
            Content::Written(head) => head.size_bytes(),
            Content::Read(reader) => reader.size_bytes(),
        }
    }

    /// The disk stays when the VM ends: it is not a copy, or was written.
    fn is_kept(&self) -> bool {
        let is_written = match &self.content {
            Content::Written(head) => head.is_written(),
            Content::Read(_) => false,
        };
        match self.copy {
            None => true,
            Some(copy) => !copy.ephemeral && is_written && !self.is_saved.load(Ordering::Relaxed),
        }
    }

    /// Ends the use of the disk.
    pub(super) fn end(&self) {
        let is_kept = self.is_kept();
        let ended = match &self.content {
            Content::Written(head) => head.give_back(),
            Content::Read(reader) => self.holder.unpin(reader.id()),
        };
        if let Err(error) = ended {
            let disk = &self.name;
            tracing::warn!(%error, disk, "could not end the use of a disk: its next user will");
        }
        match (is_kept, self.copy) {
            (true, Some(_)) => tracing::info!(disk = self.name, "the VM's disk is kept"),
            (false, _) => remove(self.holder.pool(), &self.name),
            (true, None) => {}
        }
    }
}

/// Removes a copy that nobody needs. One that cannot be removed stays.
pub(super) fn remove(pool: &Pool, name: &str) {
    if let Err(error) = pool.remove_disk(name) {
        tracing::warn!(%error, disk = name, "a copy of a disk stays that nobody needs");
    }
}

impl PoolDisk {
    pub(super) fn of(file: Arc<PoolDiskFile>) -> Self {
        Self {
            size_bytes: AtomicU64::new(file.size_bytes()),
            file,
        }
    }

    pub(super) fn file(&self) -> &PoolDiskFile {
        &self.file
    }

    /// The same disk for another device.
    pub fn reuse(&self) -> Self {
        Self::of(Arc::clone(&self.file))
    }

    /// Name of the disk in the pool.
    pub fn pool_name(&self) -> &str {
        &self.file.name
    }

    /// Name of the disk in snapshots of the VM.
    pub fn drive(&self) -> &str {
        &self.file.drive
    }

    /// The disk is a copy that was made for this VM, and stays in the pool when the VM ends.
    pub fn is_kept_copy(&self) -> bool {
        self.file.copy.is_some() && self.file.is_kept()
    }

    pub(super) fn note_saved(&self) {
        self.file.is_saved.store(true, Ordering::Relaxed);
    }

    /// The disk at this moment, for a snapshot.
    pub(super) fn cut(&self) -> Result<DiskCut, Error> {
        let cut = match &self.file.content {
            Content::Written(head) => head.cut()?,
            Content::Read(reader) => reader.cut()?,
        };
        cut.named(self.drive())
    }

    /// Blocks of metadata that a snapshot takes for the disk at most: if it is cut now, and if the
    /// guest writes before.
    pub(super) fn commit_blocks(&self) -> (u32, u32) {
        match &self.file.content {
            Content::Written(head) => head.commit_blocks(),
            Content::Read(_) => (0, 0),
        }
    }

    /// The blocks of a disk that is only read, and the pool that they are in.
    pub fn blocks(&self) -> Option<(&Pool, &FrameMap)> {
        match &self.file.content {
            Content::Written(_) => None,
            Content::Read(reader) => Some((self.file.holder.pool(), reader.map())),
        }
    }

    /// Makes the disk larger. Nobody is told; [`PoolDisk::measure`] finds it.
    ///
    /// # Errors
    /// The size is none that the disk can get, or the disk is read-only.
    pub fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        match &self.file.content {
            Content::Written(head) => head.resize(size_bytes),
            Content::Read(_) => Err(Error::DiskInUse {
                name: self.pool_name().to_owned(),
                holder: "a VM that only reads it".to_owned(),
            }),
        }
    }

    /// Finds the size anew.
    pub fn measure(&self) -> u64 {
        let size_bytes = self.file.size_bytes();
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
        size_bytes
    }

    /// Has `listener` hear when a request begins to wait for space, and when it does no more.
    pub fn on_waiting(&self, listener: SpaceListener) {
        self.file.space.tell(listener);
    }

    /// The writer's side. The device never writes to a read-only disk.
    fn head(&self) -> Result<&DiskHead, DiskError> {
        match &self.file.content {
            Content::Written(head) => Ok(head),
            Content::Read(_) => Err(DiskError::Io(io::ErrorKind::ReadOnlyFilesystem.into())),
        }
    }

    /// Does something that may need space. Waits for it.
    fn waiting(&self, act: impl FnMut() -> Result<(), Error>) -> Result<(), DiskError> {
        let done = self.file.space.wait_for(act);
        done.map_err(|error| DiskError::Io(io::Error::other(error)))
    }
}

impl DiskBackend for PoolDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    fn find_size(&self) -> io::Result<u64> {
        Ok(self.measure())
    }

    fn is_read_only(&self) -> bool {
        matches!(self.file.content, Content::Read(_))
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits::USUAL
    }

    fn name(&self) -> String {
        self.pool_name().to_owned()
    }

    fn read_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        let mut piece = self
            .file
            .piece
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (slices, offset, len) in pieces(slices, offset_bytes) {
            piece.resize(len, 0);
            let into = &mut piece[..];
            let read = match &self.file.content {
                Content::Written(head) => head.read(offset, into),
                Content::Read(reader) => reader.read(offset, into),
            };
            read.map_err(|error| DiskError::Io(io::Error::other(error)))?;
            let mut at = 0;
            for slice in &slices {
                at += slice.len();
                slice.copy_from(&piece[at - slice.len()..at]);
            }
        }
        Ok(())
    }

    fn write_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        let head = self.head()?;
        let mut piece = self
            .file
            .piece
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (slices, offset, len) in pieces(slices, offset_bytes) {
            piece.resize(len, 0);
            let mut at = 0;
            for slice in &slices {
                at += slice.copy_to(&mut piece[at..at + slice.len()]);
            }
            self.waiting(|| head.write(offset, &piece))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        match &self.file.content {
            Content::Written(head) => self.waiting(|| head.flush()),
            Content::Read(_) => Ok(()),
        }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DiskError> {
        let head = self.head()?;
        self.waiting(|| head.discard(offset_bytes, len_bytes))
    }

    fn write_zeroes(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        _may_unmap: bool,
    ) -> Result<(), DiskError> {
        let head = self.head()?;
        self.waiting(|| head.write_zeroes(offset_bytes, len_bytes))
    }
}

/// Slices of guest memory, with the place of their bytes on the disk and their length together.
type Piece<'m> = (Vec<VolatileSlice<'m>>, u64, usize);

/// The slices of a request in pieces that are copied at once.
fn pieces<'m>(slices: &[VolatileSlice<'m>], offset_bytes: u64) -> Vec<Piece<'m>> {
    let mut pieces: Vec<Piece<'m>> = Vec::new();
    let mut offset = offset_bytes;
    for slice in slices {
        let mut at = 0;
        while at < slice.len() {
            let room = match pieces.last() {
                Some((.., len)) if *len < PIECE_BYTES => PIECE_BYTES - len,
                _ => {
                    pieces.push((Vec::new(), offset, 0));
                    PIECE_BYTES
                }
            };
            let len = room.min(slice.len() - at);
            // Within the slice by `len`'s bounds.
            if let (Ok(part), Some(piece)) = (slice.subslice(at, len), pieces.last_mut()) {
                piece.0.push(part);
                piece.2 += len;
            }
            at += len;
            offset += len as u64;
        }
    }
    pieces
}

#[cfg(test)]
#[path = "pool_disk_test.rs"]
mod pool_disk_test;

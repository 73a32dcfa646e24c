//! A raw disk image on the host, file or block device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;

use super::backend::{DiskBackend, DiskError, DiskLimits, SECTOR_BYTES};
use super::content::{ContentStamp, Marking};
use crate::sys;
use crate::sys::FileRange;

/// First bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Zeros are written in pieces of this size where the file system cannot make them.
const ZEROS_BYTES: usize = 64 << 10;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// Reasons why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The host refused.
    #[error("disk {path}: {op}: {source}", path = path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// The step that failed.
        op: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The host allows reading only: permissions, an immutable file, or a read-only file system.
    #[error("disk {path} cannot be written: {source}", path = path.display())]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The path is neither a file nor a block device.
    #[error("disk {path} is neither a regular file nor a block device", path = path.display())]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// The size is not a number of sectors.
    #[error(
        "disk {path} has {size_bytes} B, and a disk needs a multiple of {SECTOR_BYTES} B that is \
         not 0",
        path = path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// The image says that it is one in the format qcow2.
    #[error("disk {path} is a qcow2 image, and disks are raw images", path = path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
    },
    /// Another VM uses the image.
    #[error("disk {path} is in use by another VM", path = path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
}

impl BlockError {
    /// Advice to the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => None,
            Self::NotWritable { .. } => Some(
                "add ',ro' to its path, if the guest shall only read it; or make it writable for \
                 this user",
            ),
            Self::NotADisk { .. } => Some("give a raw disk image"),
            Self::Size { .. } => {
                Some("give a raw disk image (not qcow2), or pad it with 'truncate -s %512 FILE'")
            }
            Self::Qcow2 { .. } => Some(
                "convert it with 'qemu-img convert -O raw FILE FILE.raw'; or add ',raw' to its \
                 path, if a guest has written these first bytes to its raw disk",
            ),
            Self::InUse { .. } => {
                Some("give each VM a copy of its own: two VMs on one writable disk destroy it")
            }
        }
    }
}

/// An open, locked image: exclusively when it is writable, shared when it is read-only.
pub struct RawDisk {
    image: Arc<Image>,
    size_bytes: AtomicU64,
}

/// The open file, which the devices that follow each other in one VM have together.
struct Image {
    file: File,
    path: PathBuf,
    read_only: bool,
    marking: Marking,
}

impl RawDisk {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let failed = |op| {
            let path = path.to_owned();
            move |source| BlockError::Io { path, op, source }
        };
        // Asked before opening: opening a FIFO would wait for its other end.
        let file_type = std::fs::metadata(path).map_err(failed("open"))?.file_type();
        if !file_type.is_file() && !file_type.is_block_device() {
            return Err(BlockError::NotADisk {
                path: path.to_owned(),
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(|source| match !read_only && is_read_only(path, &source) {
                true => BlockError::NotWritable {
                    path: path.to_owned(),
                    source,
                },
                false => failed("open")(source),
            })?;
        let size_bytes = size_of(&file, path)?;
        sys::try_lock_file(&file, !read_only).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => BlockError::InUse {
                path: path.to_owned(),
            },
            _ => failed("lock")(source),
        })?;
        let image = Image {
            marking: Marking::of(&file),
            file,
            path: path.to_owned(),
            read_only,
        };
        Ok(Self {
            image: Arc::new(image),
            size_bytes: AtomicU64::new(size_bytes),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.image.path
    }

    /// The same open and locked image for another device, which takes the place of the one that
    /// has it. Its size is found anew: an image may have grown.
    ///
    /// # Errors
    /// [`BlockError::Size`], or [`BlockError::Io`] when the size cannot be found.
    pub fn reuse(&self) -> Result<Self, BlockError> {
        let size_bytes = size_of(&self.image.file, &self.image.path)?;
        Ok(Self {
            size_bytes: AtomicU64::new(size_bytes),
            image: Arc::clone(&self.image),
        })
    }

    /// Checks that the image does not begin like one in the format qcow2. A raw disk may do so, if
    /// its guest has written that.
    ///
    /// # Errors
    /// [`BlockError::Qcow2`], or [`BlockError::Io`] when the image cannot be read.
    pub fn check_is_raw(&self) -> Result<(), BlockError> {
        let path = self.image.path.clone();
        let mut found = [0; QCOW2_MAGIC.len()];
        match self.image.file.read_exact_at(&mut found, 0) {
            Err(source) => Err(BlockError::Io {
                path,
                op: "read",
                source,
            }),
            Ok(()) if found == QCOW2_MAGIC => Err(BlockError::Qcow2 { path }),
            Ok(()) => Ok(()),
        }
    }

    /// Finds the size anew: the image may have been resized.
    ///
    /// # Errors
    /// [`BlockError::Size`] for one that no disk can have, or [`BlockError::Io`]. The old size
    /// stays then.
    pub fn measure(&self) -> Result<u64, BlockError> {
        let size_bytes = size_of(&self.image.file, &self.image.path)?;
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
        Ok(size_bytes)
    }

    /// The content now, for a snapshot or to compare with one. Nothing may write meanwhile. `None`
    /// for a block device, and for a file that the host cannot look at: nothing can be told of it.
    pub fn content(&self) -> Option<ContentStamp> {
        let stamp = self.image.marking.stamp(&self.image.file);
        stamp.unwrap_or_else(|error| {
            tracing::warn!(%error, disk = %self.name(), "nothing can be told of the content");
            None
        })
    }

    /// The same for a snapshot: the next write is told from those before.
    pub fn note_content(&self) -> Option<ContentStamp> {
        self.image.marking.note();
        self.content()
    }

    /// Has writes be told from those before a snapshot even after a power cut. Costs a flush of the
    /// image with the first write after each snapshot.
    pub fn tell_writes_apart_stably(&self) {
        self.image.marking.keep_stable();
    }

    /// Notes that this VM writes no more, so that writes of other programs can be told apart.
    pub fn settle(&self) {
        if !self.image.read_only {
            self.image.marking.settle(&self.image.file);
        }
    }

    /// Puts another file behind the disk.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        Arc::get_mut(&mut self.image)
            .expect("one device has it")
            .file = file;
    }
}

/// True for an image that could not be opened for `error`, and can be opened for reading.
fn is_read_only(path: &Path, error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    kinds.contains(&error.kind()) && File::open(path).is_ok()
}

/// Size of an open image. A block device has no length in its metadata.
fn size_of(mut file: &File, path: &Path) -> Result<u64, BlockError> {
    let path = path.to_owned();
    match file.seek(SeekFrom::End(0)) {
        Err(source) => Err(BlockError::Io {
            path,
            op: "find its size",
            source,
        }),
        Ok(size_bytes) if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) => {
            Err(BlockError::Size { path, size_bytes })
        }
        Ok(size_bytes) => Ok(size_bytes),
    }
}

impl Image {
    /// Writes zeros, in pieces.
    fn fill_with_zeros(&self, range: FileRange) -> io::Result<()> {
        let end = range.offset_bytes + range.len_bytes;
        let mut at = range.offset_bytes;
        while at < end {
            let len = (end - at).min(ZEROS_BYTES as u64);
            self.file.write_all_at(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

impl DiskBackend for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    fn find_size(&self) -> io::Result<u64> {
        self.measure().map_err(io::Error::other)
    }

    fn is_read_only(&self) -> bool {
        self.image.read_only
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits::USUAL
    }

    fn name(&self) -> String {
        self.image.path.display().to_string()
    }

    fn read_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        Ok(sys::read_exact_at(&self.image.file, slices, offset_bytes)?)
    }

    fn write_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        self.image.marking.before_write(&self.image.file)?;
        Ok(sys::write_all_at(&self.image.file, slices, offset_bytes)?)
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.image.read_only {
            Ok(())
        } else {
            Ok(self.image.file.sync_data()?)
        }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DiskError> {
        let range = FileRange {
            offset_bytes,
            len_bytes,
        };
        self.image.marking.before_write(&self.image.file)?;
        // A file system or device that gives no space back has nothing to do.
        sys::punch_hole(&self.image.file, range)?;
        Ok(())
    }

    fn write_zeroes(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), DiskError> {
        let range = FileRange {
            offset_bytes,
            len_bytes,
        };
        self.image.marking.before_write(&self.image.file)?;
        let file = &self.image.file;
        let is_done = may_unmap && sys::punch_hole(file, range)? || sys::zero_range(file, range)?;
        if !is_done {
            self.image.fill_with_zeros(range)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "raw_test.rs"]
mod raw_test;

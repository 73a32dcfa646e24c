//! A raw disk image on the host, file or block device.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::backend::{DiskBackend, SECTOR_BYTES};
use crate::{kept_files, sys};

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
    /// The path is neither a file nor a block device.
    #[error("disk {path}: not a regular file or block device", path = path.display())]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// The size is not a number of sectors.
    #[error(
        "disk {path}: {size_bytes} bytes is not a positive multiple of {SECTOR_BYTES}",
        path = path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
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
            Self::NotADisk { .. } => Some("give a raw disk image"),
            Self::Size { .. } => {
                Some("give a raw disk image (not qcow2), or pad it with 'truncate -s %512 FILE'")
            }
            Self::InUse { .. } => {
                Some("give each VM a copy of its own: two VMs on one writable disk destroy it")
            }
        }
    }
}

/// An open, locked image: exclusively when it is writable, shared when it is read-only.
pub struct RawDisk {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    read_only: bool,
}

impl RawDisk {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        if !kept_files::is_kept(path, !read_only) {
            check_is_disk(path)?;
        }
        let mut file = kept_files::open(path, !read_only).map_err(failed(path, "open"))?;
        // A block device has no length in its metadata.
        let size_bytes = file
            .seek(SeekFrom::End(0))
            .map_err(failed(path, "find its size"))?;
        if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(BlockError::Size {
                path: path.to_owned(),
                size_bytes,
            });
        }
        lock(&file, path, read_only)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes,
            read_only,
        })
    }

    /// Opens an image that [`RawDisk::open`] then has without its path ([`kept_files`]).
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn keep(path: &Path, read_only: bool) -> Result<(), BlockError> {
        check_is_disk(path)?;
        let opened = kept_files::open_new(path, !read_only).map_err(failed(path, "open"))?;
        // A path that is given twice is found here: both openings have locks of their own.
        lock(&opened, path, read_only)?;
        kept_files::keep(path, !read_only, opened);
        Ok(())
    }

    /// Puts another file behind the disk.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }
}

fn failed(path: &Path, op: &'static str) -> impl FnOnce(io::Error) -> BlockError {
    let path = path.to_owned();
    move |source| BlockError::Io { path, op, source }
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), BlockError> {
    sys::try_lock_file(file, !read_only).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => BlockError::InUse {
            path: path.to_owned(),
        },
        _ => failed(path, "lock")(source),
    })
}

/// Asked before opening: opening a FIFO would wait for its other end.
fn check_is_disk(path: &Path) -> Result<(), BlockError> {
    let metadata = std::fs::metadata(path).map_err(failed(path, "open"))?;
    let file_type = metadata.file_type();
    if file_type.is_file() || file_type.is_block_device() {
        return Ok(());
    }
    Err(BlockError::NotADisk {
        path: path.to_owned(),
    })
}

impl DiskBackend for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read_at<B: BitmapSlice>(
        &self,
        slices: &[VolatileSlice<'_, B>],
        offset_bytes: u64,
    ) -> io::Result<()> {
        sys::read_exact_at(&self.file, slices, offset_bytes)
    }

    fn write_at<B: BitmapSlice>(
        &self,
        slices: &[VolatileSlice<'_, B>],
        offset_bytes: u64,
    ) -> io::Result<()> {
        sys::write_all_at(&self.file, slices, offset_bytes)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }
}

//! Raw images: the bytes of the disk, with the holes of a file.

use std::fmt::Display;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use nvvmm::VmError;

use super::{Image, check_raw_size};

/// A regular file, or a block device.
pub struct RawImage {
    file: File,
    named: String,
    size_bytes: u64,
    data_bytes: u64,
}

impl RawImage {
    /// The image in `file`. `named` is its name for messages.
    ///
    /// # Errors
    /// The size is 0, or no multiple of 512; the system's answer.
    pub fn open(file: File, named: &dyn Display) -> Result<Self, VmError> {
        let size_bytes = (&file)
            .seek(SeekFrom::End(0))
            .map_err(|e| VmError::io(format_args!("find the size of {named}"), &e))?;
        check_raw_size(size_bytes, named)?;
        let mut image = Self {
            file,
            named: named.to_string(),
            size_bytes,
            data_bytes: 0,
        };
        let mut at = 0;
        while let Some(data) = image.next_data(at)? {
            image.data_bytes += data.end - data.start;
            at = data.end;
        }
        Ok(image)
    }

    /// The next place of data or of a hole. None behind the last data.
    fn seek(&self, from: u64, whence: Whence) -> Result<Option<u64>, Errno> {
        let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
        match lseek(self.file.as_fd(), from, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn data_behind(&self, from: u64) -> Result<Option<Range<u64>>, Errno> {
        let Some(start) = self.seek(from, Whence::SeekData)? else {
            return Ok(None);
        };
        let end = self.seek(start, Whence::SeekHole)?;
        let end = end.unwrap_or(self.size_bytes).min(self.size_bytes);
        Ok((start < end).then_some(start..end))
    }
}

impl Image for RawImage {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, VmError> {
        if from >= self.size_bytes {
            return Ok(None);
        }
        match self.data_behind(from) {
            Ok(found) => Ok(found),
            // A block device, or a file system that does not tell its holes.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTTY) => {
                Ok(Some(from..self.size_bytes))
            }
            Err(errno) => Err(VmError::io(
                format_args!("find the data of {}", self.named),
                &errno.into(),
            )),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), VmError> {
        self.file
            .read_exact_at(into, offset)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    VmError::failed(format!("{} has become shorter", self.named))
                }
                _ => VmError::io(format_args!("read {}", self.named), &e),
            })
    }
}

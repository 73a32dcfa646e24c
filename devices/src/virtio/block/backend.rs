//! Storage of a disk.

use std::io;
use std::sync::Arc;

use vm_memory::VolatileSlice;

/// Unit of all virtio-block addresses and lengths, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Reasons why a request to a disk's storage failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The storage has no room for the data. The request can be repeated when it has: none or a
    /// part of it was carried out.
    #[error("the storage has no space left")]
    NoSpace,
    /// The host refused.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io(error),
        }
    }
}

/// Sizes of requests to a disk's storage. They are told to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Unit in which the storage gives space back, and in which writes cost least: a power of two,
    /// at least [`SECTOR_BYTES`].
    pub block_bytes: u32,
    /// Most bytes of one range of a discard. Requests delay a pause, so they are limited.
    pub discard_bytes_max: u32,
    /// Most bytes of one range of a write-zeroes.
    pub zeroes_bytes_max: u32,
}

impl DiskLimits {
    /// Limits that suit a storage with blocks of 4 KiB.
    pub const USUAL: Self = Self {
        block_bytes: 4096,
        discard_bytes_max: 64 << 20,
        zeroes_bytes_max: 64 << 20,
    };
}

/// Storage behind a [`super::Block`]. The device checks all requests: a backend is asked for whole
/// sectors within its size only, and never to write when it is read-only.
///
/// Calls may come from several threads at a time. Requests that overlap are the guest's fault: any
/// order of their sectors is right. Each call is finished when it returns, so nothing is in flight
/// between calls.
pub trait DiskBackend: Send + Sync {
    /// Size in bytes: a positive multiple of [`SECTOR_BYTES`]. Only
    /// [`DiskBackend::find_size`] changes it.
    fn size_bytes(&self) -> u64;

    /// Finds the size anew: the storage may have been resized. Gives the size, which
    /// [`DiskBackend::size_bytes`] is from now on.
    ///
    /// # Errors
    /// The size cannot be found, or no disk can have it. The old one stays.
    fn find_size(&self) -> io::Result<u64>;

    /// Writes are not allowed. Always the same.
    fn is_read_only(&self) -> bool;

    /// Limits of requests. Always the same.
    fn limits(&self) -> DiskLimits;

    /// Name of the storage in messages: a path, for example.
    fn name(&self) -> String;

    /// Fills all of `slices`, in order, from `offset_bytes` on. The device marks them dirty.
    ///
    /// # Errors
    /// The read failed. Part of the slices may have been filled.
    fn read_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError>;

    /// Writes all of `slices`, in order, from `offset_bytes` on. The data is stable after the next
    /// [`DiskBackend::flush`].
    ///
    /// # Errors
    /// The write failed. Part of the data may have been written.
    fn write_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError>;

    /// Makes all finished writes stable, and discards and written zeros with them.
    ///
    /// # Errors
    /// Some of them may not be stable.
    fn flush(&self) -> Result<(), DiskError>;

    /// Gives the space of a range back as far as the storage can. A hint: success does not mean
    /// that anything was given back. The range may read as anything until it is written again.
    ///
    /// # Errors
    /// The host failed. Part of the range may have been given back.
    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DiskError>;

    /// Makes a range read as zeros. With `may_unmap` its space may be given back; without it a
    /// later write to the range shall find its space there, as far as the storage can keep that.
    ///
    /// # Errors
    /// The host failed. Part of the range may read as zeros.
    fn write_zeroes(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), DiskError>;
}

impl<D: DiskBackend + ?Sized> DiskBackend for Arc<D> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn find_size(&self) -> io::Result<u64> {
        (**self).find_size()
    }

    fn is_read_only(&self) -> bool {
        (**self).is_read_only()
    }

    fn limits(&self) -> DiskLimits {
        (**self).limits()
    }

    fn name(&self) -> String {
        (**self).name()
    }

    fn read_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        (**self).read_at(slices, offset_bytes)
    }

    fn write_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        (**self).write_at(slices, offset_bytes)
    }

    fn flush(&self) -> Result<(), DiskError> {
        (**self).flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DiskError> {
        (**self).discard(offset_bytes, len_bytes)
    }

    fn write_zeroes(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> Result<(), DiskError> {
        (**self).write_zeroes(offset_bytes, len_bytes, may_unmap)
    }
}

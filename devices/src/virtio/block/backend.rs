//! Storage of a disk.

use std::io;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Unit of all virtio-block addresses and lengths, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Storage behind a [`super::Block`]. The device checks all requests: a backend is asked for whole
/// sectors within its size only, and never to write when it is read-only.
///
/// Calls come from one thread at a time, and each is finished when it returns: the device has
/// nothing in flight between them. Discard and write-zeroes are not offered to guests; they belong
/// here with the first backend that gains from them.
pub trait DiskBackend: Send {
    /// Size in bytes: a positive multiple of [`SECTOR_BYTES`], always the same.
    fn size_bytes(&self) -> u64;

    /// Writes are not allowed. Always the same.
    fn is_read_only(&self) -> bool;

    /// Name of the storage in messages: a path, for example.
    fn name(&self) -> String;

    /// Fills all of `slices`, in order, from `offset_bytes` on, and marks them dirty in their
    /// bitmaps.
    ///
    /// # Errors
    /// The read failed. Part of the slices may have been filled.
    fn read_at<B: BitmapSlice>(
        &self,
        slices: &[VolatileSlice<'_, B>],
        offset_bytes: u64,
    ) -> io::Result<()>;

    /// Writes all of `slices`, in order, from `offset_bytes` on. The data is stable after the next
    /// [`DiskBackend::flush`].
    ///
    /// # Errors
    /// The write failed. Part of the data may have been written.
    fn write_at<B: BitmapSlice>(
        &self,
        slices: &[VolatileSlice<'_, B>],
        offset_bytes: u64,
    ) -> io::Result<()>;

    /// Makes all finished writes stable.
    ///
    /// # Errors
    /// Some of them may not be stable.
    fn flush(&self) -> io::Result<()>;
}

//! Access of fuzz targets to the command's private parts.

use std::fs::File;
use std::path::Path;

use crate::disk::image::image_in;

/// Most ranges that are read of an image.
const RANGES_MAX: usize = 64;
/// Most bytes that are read of a range.
const READ_BYTES: usize = 64 << 10;

/// Reads an image of a disk as `nvvmm disk import` does, as far as its first ranges.
///
/// # Errors
/// The message that the user gets.
///
/// # Panics
/// When the image breaks a promise: its ranges rise, are not empty, and lie inside the disk.
pub fn read_image(file: File) -> Result<u64, String> {
    let image = image_in(file, Path::new("image"), None).map_err(|e| e.to_string())?;
    let size_bytes = image.size_bytes();
    let (mut from, mut read) = (0, 0);
    for _ in 0..RANGES_MAX {
        let Some(range) = image.next_data(from).map_err(|e| e.to_string())? else {
            break;
        };
        assert!(from <= range.start && range.start < range.end && range.end <= size_bytes);
        let len =
            usize::try_from(range.end - range.start).map_or(READ_BYTES, |l| l.min(READ_BYTES));
        let mut bytes = vec![0; len];
        image
            .read(range.start, &mut bytes)
            .map_err(|e| e.to_string())?;
        (from, read) = (range.end, read + len as u64);
    }
    Ok(read)
}

//! A file that keeps the latest output, also when this process is killed.
//!
//! The file is a ring: a head with the count of bytes that were ever written, and room for four
//! times what is kept. A write goes where nothing lies that is kept, and then the count is renewed.
//! So whoever reads the file at any moment finds the latest output whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the latest output that the file keeps.
pub const KEPT_BYTES: usize = 64 << 10;
/// Bytes of the ring.
const RING_BYTES: u64 = 4 * KEPT_BYTES as u64;
const MAGIC: [u8; 8] = *b"NVMCONS1";
/// The magic number and the count.
const HEAD_BYTES: u64 = 16;

/// The file, as the console writes it.
#[derive(Debug)]
pub struct KeptOutput {
    file: File,
    /// Bytes that were ever written.
    written: u64,
    /// The last write failed, and that was told.
    is_broken: bool,
}

impl KeptOutput {
    /// Keeps output in `file`, which is empty.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(file: File) -> io::Result<Self> {
        let kept = Self {
            file,
            written: 0,
            is_broken: false,
        };
        kept.write_head()?;
        Ok(kept)
    }

    /// Keeps this output. A failure is told once, and costs output that is kept, not the guest.
    pub(super) fn push(&mut self, output: &[u8]) {
        for part in output.chunks(KEPT_BYTES) {
            match self.write(part) {
                Ok(()) => self.is_broken = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.is_broken, true) {
                        tracing::warn!(%error, "console output is not kept");
                    }
                }
            }
        }
    }

    /// Writes at most [`KEPT_BYTES`].
    fn write(&mut self, part: &[u8]) -> io::Result<()> {
        let at = self.written % RING_BYTES;
        let room = (RING_BYTES - at) as usize;
        let (first, rest) = part.split_at(room.min(part.len()));
        self.file.write_all_at(first, HEAD_BYTES + at)?;
        if !rest.is_empty() {
            self.file.write_all_at(rest, HEAD_BYTES)?;
        }
        self.written += part.len() as u64;
        self.write_head()
    }

    fn write_head(&self) -> io::Result<()> {
        let mut head = [0; HEAD_BYTES as usize];
        head[..8].copy_from_slice(&MAGIC);
        head[8..].copy_from_slice(&self.written.to_le_bytes());
        self.file.write_all_at(&head, 0)
    }
}

/// Latest output that a file keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestOutput {
    /// The output, at most [`KEPT_BYTES`].
    pub bytes: Vec<u8>,
    /// Bytes that the console has written in all.
    pub written: u64,
}

/// Reads the output that `file` keeps, also while a console writes it.
///
/// # Errors
/// The file cannot be read, or is none that a console has written.
pub fn read_kept_output(file: &File) -> io::Result<LatestOutput> {
    let written = read_count(file)?;
    let length = written.min(KEPT_BYTES as u64);
    let start = written - length;
    let at = start % RING_BYTES;
    let mut bytes = vec![0; length as usize];
    let room = ((RING_BYTES - at) as usize).min(bytes.len());
    let (first, rest) = bytes.split_at_mut(room);
    file.read_exact_at(first, HEAD_BYTES + at)?;
    file.read_exact_at(rest, HEAD_BYTES)?;
    // A console that writes very fast may have come round to the front of it meanwhile.
    let intact_from = read_count(file)?
        .saturating_add(KEPT_BYTES as u64)
        .saturating_sub(RING_BYTES);
    let lost = intact_from.saturating_sub(start).min(length);
    bytes.drain(..lost as usize);
    Ok(LatestOutput { bytes, written })
}

/// Count of the bytes that were ever written.
fn read_count(file: &File) -> io::Result<u64> {
    let mut head = [0; HEAD_BYTES as usize];
    file.read_exact_at(&mut head, 0)?;
    let (magic, count) = head.split_at(MAGIC.len());
    let count = count.try_into().map(u64::from_le_bytes);
    match count {
        Ok(count) if magic == MAGIC => Ok(count),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this is no output that a console has kept",
        )),
    }
}

#[cfg(test)]
#[path = "kept_test.rs"]
mod kept_test;

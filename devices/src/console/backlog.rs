//! Output on its way to one reader.

use std::collections::VecDeque;
use std::io::{self, Write};

/// Bytes that wait for a reader, at most a fixed number of them. When more come, the oldest are dropped and counted,
/// and the reader finds a note of it in their place.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    capacity_bytes: usize,
    skipped_bytes: u64,
}

impl Backlog {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity_bytes,
            skipped_bytes: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.skipped_bytes == 0
    }

    pub(crate) fn push(&mut self, new: &[u8]) {
        let kept = &new[new.len().saturating_sub(self.capacity_bytes)..];
        let overflow = (self.bytes.len() + kept.len()).saturating_sub(self.capacity_bytes);
        self.bytes.drain(..overflow);
        self.bytes.extend(kept);
        self.skipped_bytes += (overflow + new.len() - kept.len()) as u64;
    }

    /// Takes everything, with the note of what was dropped in front.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.note_skipped();
        std::mem::take(&mut self.bytes).into()
    }

    /// Writes as much as `writer` takes, at most `limit_bytes` in one call. Answers how much that was.
    pub(crate) fn write_some(&mut self, writer: &mut impl Write, limit_bytes: usize) -> io::Result<usize> {
        self.note_skipped();
        let (front, _) = self.bytes.as_slices();
        let chunk = &front[..front.len().min(limit_bytes)];
        if chunk.is_empty() {
            return Ok(0);
        }
        let written = writer.write(chunk)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.drain(..written);
        Ok(written)
    }

    fn note_skipped(&mut self) {
        if self.skipped_bytes > 0 {
            let note = format!(
                "\r\n[nvvmm: {} bytes of console output skipped]\r\n",
                self.skipped_bytes
            );
            self.skipped_bytes = 0;
            for byte in note.into_bytes().into_iter().rev() {
                self.bytes.push_front(byte);
            }
        }
    }
}

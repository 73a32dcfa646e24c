//! Output on its way to one reader.

use std::collections::VecDeque;
use std::io::{self, Write};

/// Bytes that wait for a reader, at most a fixed number of them. When more come, the oldest are
/// dropped and counted, and the reader finds a note of it in their place.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    capacity_bytes: usize,
    /// Dropped since the reader was last told.
    skipped_bytes: u64,
    /// The rest of a note that the reader has begun to get.
    note: Vec<u8>,
}

impl Backlog {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity_bytes,
            skipped_bytes: 0,
            note: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.skipped_bytes == 0 && self.note.is_empty()
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
        let mut taken = self.next_note();
        self.note.clear();
        self.skipped_bytes = 0;
        taken.extend(std::mem::take(&mut self.bytes));
        taken
    }

    /// Writes as much as `writer` takes, at most `limit_bytes` in one call. Answers how much that
    /// was.
    pub(crate) fn write_some(
        &mut self,
        writer: &mut impl Write,
        limit_bytes: usize,
    ) -> io::Result<usize> {
        let note = self.next_note();
        let (front, _) = self.bytes.as_slices();
        let source = if note.is_empty() { front } else { &note };
        let chunk = &source[..source.len().min(limit_bytes)];
        if chunk.is_empty() {
            return Ok(0);
        }
        let written = writer.write(chunk)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if note.is_empty() {
            self.bytes.drain(..written);
        } else {
            // Only a note that the reader has begun to get stands; until then its number still
            // grows.
            if self.note.is_empty() {
                self.skipped_bytes = 0;
            }
            self.note = note[written..].to_owned();
        }
        Ok(written)
    }

    /// The note that the reader gets before more output.
    fn next_note(&self) -> Vec<u8> {
        if self.note.is_empty() && self.skipped_bytes > 0 {
            format!(
                "\r\n[nvvmm: {} B of console output skipped]\r\n",
                self.skipped_bytes
            )
            .into_bytes()
        } else {
            self.note.clone()
        }
    }
}

//! A snapshot's memory at the addresses that its owner knows.

use nvvmm_snapshot::{CHUNK_SIZE_BYTES, SnapshotKind, SnapshotReader};

use super::InspectError;
use crate::memory::{RamRange, ram_ranges};

/// A VM's memory by guest physical address, where the gap for devices is a hole; an image's by
/// page.
#[derive(Debug)]
pub struct Memory {
    reader: SnapshotReader,
    ranges: Vec<RamRange>,
}

impl Memory {
    /// The memory behind a reader.
    ///
    /// # Errors
    /// [`InspectError::Size`].
    pub fn of(reader: SnapshotReader) -> Result<Self, InspectError> {
        let entry = reader.entry();
        let memory_bytes = entry.memory_bytes;
        let ranges = match entry.kind {
            SnapshotKind::Vm if !memory_bytes.is_multiple_of(CHUNK_SIZE_BYTES) => {
                return Err(InspectError::Size { memory_bytes });
            }
            SnapshotKind::Vm => ram_ranges(memory_bytes),
            SnapshotKind::Process => vec![RamRange {
                gpa: 0,
                size_bytes: memory_bytes,
                ram_offset: 0,
            }],
        };
        Ok(Self { reader, ranges })
    }

    /// The snapshot.
    pub fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Ranges that have memory, lowest first.
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// The end of the highest address.
    pub fn end(&self) -> u64 {
        self.ranges
            .last()
            .map_or(0, |range| range.gpa + range.size_bytes)
    }

    /// Copies memory out: zeros where nothing was ever written, where there is no memory, and
    /// behind its end.
    ///
    /// # Errors
    /// [`InspectError::Pool`], also when the snapshot was removed.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), InspectError> {
        let end = address.saturating_add(into.len() as u64);
        let mut done = address;
        for range in &self.ranges {
            let start = range.gpa.clamp(done, end);
            let stop = (range.gpa + range.size_bytes).clamp(start, end);
            into[(done - address) as usize..(start - address) as usize].fill(0);
            let piece = &mut into[(start - address) as usize..(stop - address) as usize];
            if !piece.is_empty() {
                self.reader
                    .read(range.ram_offset + (start - range.gpa), piece)?;
            }
            done = stop;
        }
        into[(done - address) as usize..].fill(0);
        Ok(())
    }

    /// The first address from this one on that was written; none when no such follows.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn next_data(&self, address: u64) -> Result<Option<u64>, InspectError> {
        for range in self.behind(address) {
            let from = address.max(range.gpa) - range.gpa + range.ram_offset;
            let found = self.reader.next_data(from)?;
            if let Some(at) = found.filter(|at| *at < range.ram_offset + range.size_bytes) {
                return Ok(Some(at - range.ram_offset + range.gpa));
            }
        }
        Ok(None)
    }

    /// The first address from this one on that was never written, or is no memory; at most the end.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn next_hole(&self, address: u64) -> Result<u64, InspectError> {
        match self.behind(address).next() {
            Some(range) if range.gpa <= address => {
                let at = self
                    .reader
                    .next_hole(address - range.gpa + range.ram_offset)?;
                Ok((at - range.ram_offset).min(range.size_bytes) + range.gpa)
            }
            _ => Ok(address),
        }
    }

    /// The ranges that end behind an address.
    fn behind(&self, address: u64) -> impl Iterator<Item = &RamRange> {
        self.ranges
            .iter()
            .filter(move |range| address < range.gpa + range.size_bytes)
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;

//! Checks of chunks that arrive from elsewhere, against the header that they arrive with.

use super::disks::StreamDisk;
use super::header::StreamHeader;
use super::payload::{ChunkRecord, StreamTotals};
use crate::error::{Error, Result};
use crate::number::BLOCK_SIZE_BYTES;

/// The records of chunks so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordChecks {
    /// The next chunk has this map and index at least.
    next: (usize, u64),
    totals: StreamTotals,
}

impl RecordChecks {
    /// Checks the place and the frames of the next record, not their content.
    ///
    /// # Errors
    /// [`Error::StreamDamaged`].
    pub(crate) fn next(&mut self, header: &StreamHeader, record: &ChunkRecord) -> Result<()> {
        let (map, index) = (record.map, record.index);
        let frames_total = header.frames_of(map).ok_or_else(|| {
            Error::stream_damaged(format!("the record of chunk {index} makes no sense"))
        })?;
        if (map, u64::from(index.get())) < self.next {
            return Err(Error::stream_damaged(format!(
                "chunk {index} is out of order: indices must rise"
            )));
        }
        let inside = ChunkRecord::frames_inside(index, frames_total);
        let all = record.written.union(&record.emptied);
        if all.iter().any(|frame| frame >= inside) {
            return Err(Error::stream_damaged(format!(
                "chunk {index} has frames behind the end"
            )));
        }
        if header.base.is_none() && !record.emptied.is_empty() {
            return Err(Error::stream_damaged(format!(
                "chunk {index} empties frames of a base, but the stream has no base"
            )));
        }
        self.totals.add(&record.written, &record.emptied);
        let frames_most = header.frames_written.unwrap_or(u64::MAX);
        if self.totals.frames_written > frames_most {
            return Err(Error::stream_damaged(format!(
                "it has more than the {frames_most} frames that its header declares"
            )));
        }
        self.next = (map, u64::from(index.get()) + 1);
        Ok(())
    }

    /// Has the next record be about any chunk.
    pub(crate) fn begin_anywhere(&mut self) {
        self.next = (0, 0);
    }

    /// Checks that what is behind the end of a disk in its last block is zero.
    ///
    /// # Errors
    /// [`Error::StreamDamaged`].
    pub(crate) fn end_of_disk(header: &StreamHeader, record: &ChunkRecord) -> Result<()> {
        let disk = record.map.checked_sub(1);
        let Some(disk) = disk.and_then(|disk| header.disks.get(disk)) else {
            return Ok(());
        };
        let inside = (disk.size_bytes % BLOCK_SIZE_BYTES) as usize;
        let frames_total = StreamDisk::frames_total(disk);
        let last = record.frames().last();
        let last = last.filter(|(frame, _)| {
            record.index.frame_number(*frame) + 1 == frames_total && inside > 0
        });
        match last {
            Some((_, bytes)) if bytes[inside..].iter().any(|byte| *byte != 0) => {
                Err(Error::stream_damaged("a disk has something behind its end"))
            }
            _ => Ok(()),
        }
    }

    /// The sums over the records.
    pub(crate) fn totals(&self) -> StreamTotals {
        self.totals
    }
}

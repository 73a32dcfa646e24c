//! Logs of heads, as whoever is not the head reads them: to count and to recover.
//!
//! As long as a head's holder lives, its leases protect the blocks that the log refers to, and
//! these have the count 0. Once it is dead, the log's references count like those of a map. What
//! turns the one into the other is the nonce in the holder's slot ([`BlockStore::is_held`]).

use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Error, Result};
use crate::layout::head_log::{Change, LogFrontV1, RECORD_BYTES, flushed_word};
use crate::layout::inode::HeadPlace;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo};
use crate::overlay::Overlay;
use crate::store::{BlockStore, by_chunk, runs};

/// A step that keeps a log safe. Tests leave one out, and the crash tests must miss it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// A flush waits for blocks and records before it says that they are durable.
    FlushWaits,
    /// Records that were not flushed end with the host.
    CutOff,
}

#[cfg(test)]
thread_local! {
    /// The step that this thread leaves out.
    pub(crate) static LEFT_OUT: std::cell::Cell<Option<Duty>> =
        const { std::cell::Cell::new(None) };
}

/// True, but for the step that a test leaves out.
pub(crate) fn is_done(duty: Duty) -> bool {
    #[cfg(test)]
    if LEFT_OUT.get() == Some(duty) {
        return false;
    }
    let _ = duty;
    true
}

/// The content of a log.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// All changes together.
    pub(crate) overlay: Overlay,
    /// The last record.
    pub(crate) last: u64,
    /// The last one that was flushed.
    pub(crate) flushed: u64,
}

/// Reads the log of a head of a disk of this size.
///
/// # Errors
/// [`Error::Damaged`] when a record is missing that was flushed, or cannot be one of this disk.
pub(crate) fn replay(store: &BlockStore, head: &HeadPlace, size_bytes: u64) -> Result<Replayed> {
    let frames = size_bytes.div_ceil(BLOCK_SIZE_BYTES);
    let fault = |what: &str| Error::damaged(format!("the log of head {}: {what}", head.id));
    let mut front = LogFrontV1::new_zeroed();
    let first = head.log.first().ok_or_else(|| fault("it has no blocks"))?;
    store
        .region
        .read(first.byte_offset(), front.as_mut_bytes())?;
    let flushed = front
        .open(head.id)
        .ok_or_else(|| fault("its first block is not its own"))?;
    let mut replayed = Replayed {
        overlay: Overlay::default(),
        last: head.base,
        flushed: flushed.max(head.base),
    };
    for sequence in (head.base.saturating_add(1)..).take(head.capacity() as usize) {
        let mut bytes = [0; RECORD_BYTES];
        store
            .region
            .read(head.record_offset(sequence), &mut bytes)?;
        let Some(change) = Change::open(&bytes, head.id, sequence) else {
            break;
        };
        if !change.is_possible(frames, &store.layout) {
            return Err(fault("a record that no disk of this size can have"));
        }
        replayed
            .overlay
            .set(change.frame, change.count, change.block);
        replayed.last = sequence;
    }
    if replayed.last < replayed.flushed {
        return Err(fault(&format!(
            "it was flushed up to record {}, and ends with {}",
            replayed.flushed, replayed.last
        )));
    }
    Ok(replayed)
}

/// Starts making records durable, from one to another.
pub(crate) fn flush_records(
    store: &BlockStore,
    head: &HeadPlace,
    sequences: std::ops::RangeInclusive<u64>,
) -> Result<()> {
    let mut run: Option<(u64, u64)> = None;
    for sequence in sequences {
        let offset = head.record_offset(sequence);
        run = match run {
            Some((start, end)) if end == offset => Some((start, offset + RECORD_BYTES as u64)),
            before => {
                if let Some((start, end)) = before {
                    store.region.flush(start, end - start)?;
                }
                Some((offset, offset + RECORD_BYTES as u64))
            }
        };
    }
    run.map_or(Ok(()), |(start, end)| {
        store.region.flush(start, end - start)
    })
}

/// Notes that records up to this one are durable, and what they refer to.
pub(crate) fn note_flushed(store: &BlockStore, head: &HeadPlace, sequence: u64) -> Result<()> {
    let word = flushed_word(sequence).to_le_bytes();
    store.region.write(head.flushed_offset(), &word)?;
    store
        .region
        .flush(head.flushed_offset(), word.len() as u64)?;
    store.region.fence()
}

/// Makes all durable that a dead process has logged. Afterwards what its records took out of the
/// map may be reused.
pub(crate) fn flush_for_dead(store: &BlockStore, head: &HeadPlace, size_bytes: u64) -> Result<()> {
    let log = replay(store, head, size_bytes)?;
    if log.last == head.base {
        return Ok(());
    }
    let mut blocks = log.overlay.blocks();
    blocks.sort_unstable();
    store.clear_digests_durably(&blocks)?;
    flush_data(store, &blocks)?;
    flush_records(store, head, head.base + 1..=log.last)?;
    store.region.fence()?;
    note_flushed(store, head, log.last)
}

/// Starts making blocks durable that anyone has written. They must be sorted.
pub(crate) fn flush_data(store: &BlockStore, blocks: &[BlockNo]) -> Result<()> {
    for (offset, len) in by_chunk(blocks).flat_map(runs) {
        store.region.flush_foreign(offset, len)?;
    }
    Ok(())
}

/// Ends a log behind its last flushed record, durably: the host went down, and what was not flushed
/// may be there in part only.
pub(crate) fn cut_off(store: &BlockStore, head: &HeadPlace, size_bytes: u64) -> Result<()> {
    let log = replay(store, head, size_bytes)?;
    if log.last == log.flushed {
        return Ok(());
    }
    let offset = head.record_offset(log.flushed + 1);
    store.region.write(offset, &[0; RECORD_BYTES])?;
    store.region.flush(offset, RECORD_BYTES as u64)?;
    store.region.fence()
}

//! Chooses the committed one of the two superblocks.

use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::runtime::{COMMITTED_OFFSET, committed_generation, committed_word};
use crate::layout::superblock::{SlotFault, SuperblockV2};
use crate::layout::{FORMAT_VERSION, SIZE_BYTES_MIN, SUPERBLOCK_BLOCKS};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo};
use crate::region::Region;
use crate::wording::SizeText;

/// The committed superblock and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) superblock: SuperblockV2,
    /// The slot that holds it, 0 or 1.
    pub(crate) slot: usize,
    /// The fault of the other slot, if it has one.
    pub(crate) other_fault: Option<String>,
}

impl Current {
    pub(crate) fn generation(&self) -> u64 {
        self.superblock.generation.get()
    }
}

impl Current {
    /// Makes the superblock durable: its writer may have died before that. Until then a crash can
    /// bring the superblock before it back, and blocks of that one's catalog must not change.
    pub(crate) fn confirm(&mut self, region: &dyn Region) -> Result<()> {
        region.flush(slot_offset(self.slot), BLOCK_SIZE_BYTES)?;
        region.fence()?;
        if let Some(fault) = self.other_fault.take() {
            let slot = 1 - self.slot;
            tracing::warn!(slot, fault, "a superblock was cut off: replaced");
            // Parts of the new one could complete the one that was cut off, were its beginning
            // still there.
            region.write(slot_offset(slot), &[0; 64])?;
            region.flush(slot_offset(slot), BLOCK_SIZE_BYTES)?;
            region.fence()?;
            region.write(slot_offset(slot), &self.superblock.seal())?;
            region.flush(slot_offset(slot), BLOCK_SIZE_BYTES)?;
        }
        note_completed(region, self.generation())
    }
}

/// Notes that a generation is complete. From then on its predecessor's blocks may be reused.
pub(crate) fn note_completed(region: &dyn Region, generation: u64) -> Result<()> {
    let word = committed_word(generation).to_le_bytes();
    region.write(COMMITTED_OFFSET, &word)?;
    region.flush(COMMITTED_OFFSET, word.len() as u64)?;
    region.fence()
}

/// Byte offset of a superblock slot.
pub(crate) fn slot_offset(slot: usize) -> u64 {
    BlockNo::new(SUPERBLOCK_BLOCKS[slot % 2]).byte_offset()
}

/// Reads both slots and decides.
///
/// A damaged slot is what a commit leaves that was cut off while it wrote its superblock: the other
/// slot is the committed one then. But once a commit is complete, what its predecessor referred to
/// may be gone. The runtime block says which generation was completed last, so that the two cases
/// cannot be confused.
pub(crate) fn read_current(region: &dyn Region, path: &Path) -> Result<Current> {
    if region.len_bytes() < SIZE_BYTES_MIN {
        let why = format!(
            "it has {}, and the smallest pool has {}",
            SizeText::left(region.len_bytes()),
            SizeText::of(SIZE_BYTES_MIN)
        );
        return Err(Error::NotAPool {
            path: path.to_owned(),
            why,
        });
    }
    let mut slots = [read_slot(region, 0)?, read_slot(region, 1)?];
    for slot in &slots {
        if let Err(SlotFault::Version(found)) = slot {
            return Err(Error::Version {
                found: *found,
                expected: FORMAT_VERSION,
            });
        }
    }
    let current = match &slots {
        [Ok(first), Ok(second)] if first.uuid != second.uuid => {
            return Err(Error::damaged("the two superblocks are of different pools"));
        }
        [Ok(first), Ok(second)] => usize::from(second.generation.get() > first.generation.get()),
        [Ok(_), Err(_)] => 0,
        [Err(_), Ok(_)] => 1,
        [Err(SlotFault::NoMagic), Err(SlotFault::NoMagic)] => {
            return Err(Error::NotAPool {
                path: path.to_owned(),
                why: "it does not begin with a pool's magic".to_owned(),
            });
        }
        [Err(first), Err(second)] => {
            return Err(Error::damaged(format!(
                "both superblocks: slot 0: {first}; slot 1: {second}"
            )));
        }
    };
    let other_fault = slots[1 - current].as_ref().err().map(ToString::to_string);
    let superblock = std::mem::replace(&mut slots[current], Err(SlotFault::NoMagic))
        .map_err(|fault| Error::damaged(fault.to_string()))?;
    if let Some(fault) = &other_fault {
        check_completed(region, &superblock, 1 - current, fault)?;
    }
    Ok(Current {
        superblock,
        slot: current,
        other_fault,
    })
}

/// Reads one of the two slots: the superblock, or the fault that makes it unusable.
pub(crate) fn read_slot(
    region: &dyn Region,
    slot: usize,
) -> Result<Result<SuperblockV2, SlotFault>> {
    let mut bytes = [0; 4096];
    region.read(slot_offset(slot), &mut bytes)?;
    Ok(SuperblockV2::decode(&bytes))
}

fn check_completed(
    region: &dyn Region,
    superblock: &SuperblockV2,
    damaged: usize,
    fault: &str,
) -> Result<()> {
    let mut word = [0; 8];
    region.read(COMMITTED_OFFSET, &mut word)?;
    let generation = superblock.generation.get();
    match committed_generation(u64::from_le_bytes(word)) {
        Some(completed) if completed <= generation => Ok(()),
        Some(completed) => Err(Error::damaged(format!(
            "superblock slot {damaged} ({fault}): generation {completed} was complete, only \
             {generation} can be read"
        ))),
        None => Err(Error::damaged(format!(
            "superblock slot {damaged} ({fault}), and the runtime block does not say which \
             generation was complete"
        ))),
    }
}

//! Arms and disarms mapped ranges, in as few calls as the kernel takes.

use std::{io, ops::Range, sync::atomic::Ordering};

use nvvmm_snapshot::ChunkIndex;

use super::Mapping;
use crate::{
    cow::{CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES, error::os, redirect::chunk::MappedRun},
    sys::patiently,
};

/// Mapped addresses, and the place of their bytes in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    addresses: Range<usize>,
    /// Offset of the first byte.
    pool_offset: usize,
    private: bool,
}

/// Mappings that one call can arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Any mappings that lie beside each other.
    Neighbours,
    /// Mappings that lie beside each other in the pool too, and have most likely merged into one.
    OneMapping,
    /// Mappings of one chunk.
    Chunk,
}

impl Stretch {
    /// Appends a stretch that follows. Returns false if one call cannot reach both.
    fn try_append(&mut self, next: &Self, reach: Reach) -> bool {
        let (here, there) = (&mut self.addresses, &next.addresses);
        let joins = here.end == there.start
            && match reach {
                Reach::Neighbours => true,
                Reach::OneMapping => {
                    self.private == next.private
                        && self.pool_offset + here.len() == next.pool_offset
                }
                Reach::Chunk => false,
            };
        if joins {
            here.end = there.end;
        }
        joins
    }
}

/// Arms runs in rising order. Neighbours are armed together, so the last ones are armed by
/// [`Arming::end`].
pub(in crate::cow::redirect) struct Arming<'a> {
    mapping: &'a Mapping,
    pending: Option<Stretch>,
}

impl Arming<'_> {
    /// Arms a run, now or with those that follow.
    pub fn add(&mut self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        let next = self.mapping.stretch_of(index, run);
        let reach = self.mapping.reach();
        let appended = self
            .pending
            .as_mut()
            .is_some_and(|stretch| stretch.try_append(&next, reach));
        if !appended {
            self.mapping.arm_stretch(self.pending.replace(next))?;
        }
        Ok(())
    }

    /// Arms what is left.
    pub fn end(self) -> Result<(), CowError> {
        self.mapping.arm_stretch(self.pending)
    }
}

impl Mapping {
    /// Begins to arm frames. Nobody may write to guest RAM meanwhile, and nothing of it may be
    /// mapped.
    pub fn arming(&self) -> Arming<'_> {
        Arming {
            mapping: self,
            pending: None,
        }
    }

    /// Mappings of huge pages do not merge.
    fn reach(&self) -> Reach {
        match (self.crossing.load(Ordering::Relaxed), self.unit_frames) {
            (true, _) => Reach::Neighbours,
            (false, CHUNK_FRAMES) => Reach::Chunk,
            (false, _) => Reach::OneMapping,
        }
    }

    /// The frames of `run` in whole units: those that are armed together with frames of `run`.
    pub fn units_of(&self, run: &MappedRun) -> Range<u32> {
        let (first, last) = (run.frames.start.into(), (run.frames.end - 1).into());
        self.unit_of(first).start..self.unit_of(last).end
    }

    /// A run in whole units. What is armed already may be armed again.
    fn stretch_of(&self, index: ChunkIndex, run: &MappedRun) -> Stretch {
        let frames = self.units_of(run);
        let before = (run.frames.start - frames.start) as usize;
        let (offset, size_bytes) = self.range(index, &frames);
        let start = self.reservation().start() + offset;
        Stretch {
            addresses: start..start + size_bytes,
            pool_offset: (run.block.get() as usize).saturating_sub(before) * FRAME_SIZE_BYTES,
            private: run.private,
        }
    }

    fn arm_stretch(&self, stretch: Option<Stretch>) -> Result<(), CowError> {
        let Some(Stretch { addresses, .. }) = stretch else {
            return Ok(());
        };
        self.protect(addresses.start, addresses.len(), true)
            .map_err(os("arm shared frames"))
    }

    /// Arms or disarms a range, all of which is mapped, in one call where the kernel takes that.
    ///
    /// Before Linux 6.3 a call may not cross mappings, and the kernel decides whether neighbours
    /// have merged into one. Where they have not, it answers ENOENT. Then each half is tried, and
    /// later calls do not cross mappings.
    pub(super) fn protect(&self, start: usize, size_bytes: usize, armed: bool) -> io::Result<()> {
        match patiently(|| self.uffd.protect(start, size_bytes, armed)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.crossing.store(false, Ordering::Relaxed);
                let unit_bytes = self.unit_frames as usize * FRAME_SIZE_BYTES;
                let half = half_of(size_bytes, unit_bytes).ok_or(error)?;
                self.protect(start, half, armed)?;
                self.protect(start + half, size_bytes - half, armed)
            }
            result => result,
        }
    }
}

/// Half of a range of whole pages of the medium, if there is more than one.
fn half_of(size_bytes: usize, unit_bytes: usize) -> Option<usize> {
    let units = size_bytes / unit_bytes;
    (units > 1).then(|| units / 2 * unit_bytes)
}

#[cfg(test)]
#[path = "arm_test.rs"]
mod arm_test;

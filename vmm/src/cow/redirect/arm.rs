//! Arms and disarms what is mapped, in as few calls as the kernel takes.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{
    RedirectEngine,
    chunk::{LiveChunk, MappedRun},
};
use crate::cow::{
    CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES, ShareSet,
    engine::{lock, os},
};

/// Mapped addresses, and where their bytes are in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub addresses: Range<usize>,
    /// Of the first byte.
    pub pool_offset: usize,
    pub private: bool,
}

/// What one call can arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any mappings that lie beside each other.
    Neighbours,
    /// What goes on in the pool, too, and has most likely merged into one mapping.
    OneMapping,
    /// Nothing but a chunk's own.
    Chunk,
}

impl Stretch {
    /// Takes in what follows, or says that it cannot.
    pub fn take_in(&mut self, next: &Self, reach: Reach) -> bool {
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

impl RedirectEngine {
    /// Nobody may write to guest RAM meanwhile, nor anything of it be mapped.
    pub(super) fn arm_shared(&self, set: &ShareSet) -> Result<(), CowError> {
        let mut pending: Option<Stretch> = None;
        for (index, _, own) in set.iter() {
            let mut live = lock(self.chunk(index));
            let LiveChunk::Known(known) = &mut *live else {
                continue;
            };
            let armed = std::mem::take(&mut known.armed);
            if !known.mapped {
                continue;
            }
            for run in known.mapped_runs(&own.minus(&armed)) {
                let next = self.stretch_of(index, &run);
                let reach = self.reach();
                let taken_in = pending
                    .as_mut()
                    .is_some_and(|stretch| stretch.take_in(&next, reach));
                if !taken_in {
                    self.arm_stretch(pending.replace(next))?;
                }
            }
        }
        self.arm_stretch(pending)
    }

    /// Mappings of huge pages do not merge.
    fn reach(&self) -> Reach {
        match (self.crossing.load(Ordering::Relaxed), self.unit_frames) {
            (true, _) => Reach::Neighbours,
            (false, CHUNK_FRAMES) => Reach::Chunk,
            (false, _) => Reach::OneMapping,
        }
    }

    /// In whole units. What is armed already may be armed again.
    fn stretch_of(&self, index: u32, run: &MappedRun) -> Stretch {
        let frames = self.unit_of(run.frames.start).start..self.unit_of(run.frames.end - 1).end;
        let before = (run.frames.start - frames.start) as usize;
        let start = self.address(index, frames.start);
        Stretch {
            addresses: start..start + frames.len() * FRAME_SIZE_BYTES,
            pool_offset: (run.block.get() as usize).saturating_sub(before) * FRAME_SIZE_BYTES,
            private: run.private,
        }
    }

    fn arm_stretch(&self, stretch: Option<Stretch>) -> Result<(), CowError> {
        let Some(Stretch { addresses, .. }) = stretch else {
            return Ok(());
        };
        self.arm_range(addresses.start, addresses.len())
            .map_err(os("arm shared frames"))
    }

    /// Everything in the range is mapped.
    pub(super) fn arm_range(&self, start: usize, size_bytes: usize) -> std::io::Result<()> {
        self.protect_range(start, size_bytes, true)
    }

    /// Arms or disarms, in one call where the kernel does. Before Linux 6.3 a call may not cross
    /// mappings, and whether neighbours have merged into one is the kernel's business: where
    /// they have not, it says ENOENT, each half is tried, and calls are not made to cross from
    /// then on.
    pub(super) fn protect_range(
        &self,
        start: usize,
        size_bytes: usize,
        armed: bool,
    ) -> std::io::Result<()> {
        match self.uffd.protect(start, size_bytes, armed) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.crossing.store(false, Ordering::Relaxed);
                let unit_bytes = self.unit_frames as usize * FRAME_SIZE_BYTES;
                let half = half_of(size_bytes, unit_bytes).ok_or(error)?;
                self.protect_range(start, half, armed)?;
                self.protect_range(start + half, size_bytes - half, armed)
            }
            result => result,
        }
    }
}

/// Half of a range of whole pages of the medium, if there is more than one.
pub(super) fn half_of(size_bytes: usize, unit_bytes: usize) -> Option<usize> {
    let units = size_bytes / unit_bytes;
    (units > 1).then(|| units / 2 * unit_bytes)
}

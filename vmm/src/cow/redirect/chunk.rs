//! What is behind one 2 MiB chunk of guest RAM.

use std::ops::Range;

use nvvmm_snapshot::{BlockNo, ChunkMap, ChunkNo, FrameSet};

use super::{heat::Heat, lone::LoneFrame};
use crate::cow::frames::{put_blocks, runs, set_of};

/// A chunk that the engine knows more of than "as in the snapshot that this VM came from".
#[derive(Debug)]
pub(super) struct KnownChunk {
    /// The block behind every frame.
    pub map: ChunkMap,
    /// Frames that the guest may write without a copy: their blocks are this VM's and in no
    /// snapshot.
    pub own: FrameSet,
    /// Those of them that are armed already, ahead of the snapshot that they are to be in: a write
    /// to one is held, and let go.
    pub armed: FrameSet,
    /// Frames that are mapped privately (blocks of the snapshot this VM was restored from).
    pub private: FrameSet,
    /// Those of them that are not armed yet: until they are, a write takes a page of this process.
    pub unarmed: FrameSet,
    /// The blocks are mapped at the guest's addresses.
    pub mapped: bool,
    /// No private frame was written before it was armed, or all that were are own by now.
    pub settled: bool,
    /// In the list of chunks to share at the next snapshot.
    pub dirty: bool,
    /// A pool chunk set aside for copies of this chunk, each frame to its own index, so that
    /// neighbours end up beside each other and share one mapping.
    pub spare: Option<ChunkNo>,
    /// The frames that the last write fault dealt with: one that goes on at their end takes twice
    /// as many.
    pub last_window: Range<u32>,
    /// Which frames are written again and again.
    pub heat: Heat,
    /// Whether it is one frame that is written.
    pub lone: LoneFrame,
}

/// State of one chunk.
#[derive(Debug, Default)]
pub(super) enum LiveChunk {
    /// As in the snapshot that the VM came from, or never written; not mapped. The first access is
    /// held.
    #[default]
    Untouched,
    /// Anything else.
    Known(Box<KnownChunk>),
}

impl KnownChunk {
    /// A chunk that is known but not mapped.
    pub fn unmapped(map: ChunkMap, own: FrameSet) -> Self {
        Self {
            map,
            own,
            armed: FrameSet::EMPTY,
            private: FrameSet::EMPTY,
            unarmed: FrameSet::EMPTY,
            mapped: false,
            settled: true,
            dirty: false,
            spare: None,
            last_window: 0..0,
            heat: Heat::default(),
            lone: LoneFrame::default(),
        }
    }

    /// The block behind `frame`; `None` for a hole.
    pub fn block(&self, frame: u32) -> Option<BlockNo> {
        self.map.block(frame)
    }

    /// Frames that the guest is expected to write soon, and that it cannot without a copy.
    pub fn hot_now(&self) -> FrameSet {
        let expected = self.heat.expected().minus(&self.own);
        if expected.is_empty() {
            return expected;
        }
        expected.intersection(&self.backed())
    }

    /// Frames that have a block.
    pub fn backed(&self) -> FrameSet {
        match &self.map {
            ChunkMap::Hole => FrameSet::EMPTY,
            ChunkMap::Whole(_) => FrameSet::FULL,
            ChunkMap::Frames(_) => self.map.present(),
        }
    }

    /// Puts other blocks behind frames, and says again what the map is in its shortest form.
    pub fn replace(&mut self, targets: &[(u32, BlockNo)]) {
        put_blocks(
            &mut self.map,
            targets.iter().map(|(frame, block)| (*frame, Some(*block))),
        );
    }

    /// Frames that lie beside each other in the pool too and are mapped alike: one run is one
    /// mapping.
    pub fn mapped_runs(&self, frames: &FrameSet) -> Vec<MappedRun> {
        let mut runs: Vec<MappedRun> = Vec::new();
        for frame in frames.iter() {
            let Some(block) = self.block(frame) else {
                continue;
            };
            let private = self.private.contains(frame);
            match runs.last_mut() {
                Some(run) if run.continues_with(frame, block, private) => run.frames.end += 1,
                _ => runs.push(MappedRun {
                    frames: frame..frame + 1,
                    block,
                    private,
                }),
            }
        }
        runs
    }

    /// Mappings that the chunk takes at the guest's addresses, holes included.
    pub fn mappings_now(&self) -> usize {
        if !self.mapped {
            return 0;
        }
        match &self.map {
            ChunkMap::Whole(_) if self.private.is_empty() => 1,
            _ => {
                let backed = self.backed();
                let holes = set_of(backed.iter_absent());
                self.mapped_runs(&backed).len() + runs(&holes).len()
            }
        }
    }
}

/// Frames behind which lie consecutive blocks, mapped alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MappedRun {
    pub frames: Range<u32>,
    /// Block behind the first frame.
    pub block: BlockNo,
    pub private: bool,
}

impl MappedRun {
    fn continues_with(&self, frame: u32, block: BlockNo, private: bool) -> bool {
        self.frames.end == frame
            && u64::from(block.get()) == u64::from(self.block.get()) + self.frames.len() as u64
            && private == self.private
    }
}

/// Consecutive frames that go to consecutive blocks.
pub(super) fn target_runs(targets: &[(u32, BlockNo)]) -> Vec<MappedRun> {
    let mut runs: Vec<MappedRun> = Vec::new();
    for (frame, block) in targets {
        match runs.last_mut() {
            Some(run) if run.continues_with(*frame, *block, false) => run.frames.end += 1,
            _ => runs.push(MappedRun {
                frames: *frame..*frame + 1,
                block: *block,
                private: false,
            }),
        }
    }
    runs
}

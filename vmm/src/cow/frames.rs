//! Sets of frames of one chunk, and the blocks behind them, in the forms the engines need.

use std::{ops::Range, sync::Arc};

use nvvmm_snapshot::{BlockNo, ChunkMap, FrameIndex, FrameSet, LeafBlocks};

/// The set of `frames`.
pub(super) fn set_of(frames: impl IntoIterator<Item = impl Into<FrameIndex>>) -> FrameSet {
    let mut set = FrameSet::EMPTY;
    for frame in frames {
        set.insert(frame);
    }
    set
}

/// The frames of `set` as ranges without gaps, in rising order.
pub(super) fn runs(set: &FrameSet) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for frame in set.iter() {
        match runs.last_mut() {
            Some(run) if run.end == frame => run.end += 1,
            _ => runs.push(frame..frame + 1),
        }
    }
    runs
}

/// Puts other blocks, or none, behind frames, and keeps the map in its shortest form. A copy of the
/// map that a snapshot is being committed from stays as it is.
pub(super) fn put_blocks(
    map: &mut ChunkMap,
    targets: impl IntoIterator<Item = (FrameIndex, Option<BlockNo>)>,
) {
    let mut blocks = match std::mem::replace(map, ChunkMap::Hole) {
        ChunkMap::Frames(blocks) => blocks,
        ChunkMap::Hole => Arc::new(LeafBlocks::default()),
        ChunkMap::Whole(chunk) => Arc::new(LeafBlocks::of_chunk(chunk)),
    };
    let leaf = Arc::make_mut(&mut blocks);
    for (frame, block) in targets {
        leaf.set(frame, block);
    }
    *map = match leaf.as_chunk() {
        Some(chunk) => ChunkMap::Whole(chunk),
        None => ChunkMap::Frames(blocks),
    };
}

/// Frames behind which lie consecutive blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockRun {
    pub frames: Range<u32>,
    /// Block behind the first frame.
    pub block: BlockNo,
}

/// The frames of `set` that have a block, as runs in rising order.
pub(super) fn block_runs(map: &ChunkMap, set: &FrameSet) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for frame in set.iter() {
        let Some(block) = map.block(frame) else {
            continue;
        };
        match runs.last_mut() {
            Some(run)
                if run.frames.end == frame
                    && u64::from(block.get())
                        == u64::from(run.block.get()) + run.frames.len() as u64 =>
            {
                run.frames.end += 1;
            }
            _ => runs.push(BlockRun {
                frames: frame..frame + 1,
                block,
            }),
        }
    }
    runs
}

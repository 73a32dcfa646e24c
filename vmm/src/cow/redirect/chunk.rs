//! State of one 2 MiB chunk of guest RAM.

use std::ops::Range;

use nvvmm_snapshot::{BlockNo, ChunkMap, ChunkNo, FrameIndex, FrameSet};

use super::{placement::SetAside, prediction::WriteHistory};
use crate::cow::frames::{put_blocks, runs, set_of};

/// A chunk that the engine knows more of than "as in the snapshot that this VM came from".
///
/// Every frame of it is in one of these states:
///
/// | state | block | mapped | a write |
/// |---|---|---|---|
/// | hole | none | as nothing | is held, and gets a fresh block |
/// | own | of this VM, in no snapshot | shared | goes through |
/// | own and armed ahead | the same | shared | is held, and released without a copy |
/// | shared | of a snapshot | shared or privately, armed | is held, and copied |
/// | shared and unarmed | of a snapshot | privately | goes to a page of this process |
#[derive(Debug)]
pub(super) struct KnownChunk {
    /// The block behind every frame.
    map: ChunkMap,
    /// Frames that the guest may write without a copy.
    own: FrameSet,
    /// Own frames that stayed own when others were shared for a process. No copy made them own.
    stayed_own: FrameSet,
    /// Own frames that are armed ahead of the snapshot that they are to be in.
    armed_ahead: FrameSet,
    /// Frames that are mapped privately.
    private: FrameSet,
    /// Private frames that are not armed yet.
    unarmed: FrameSet,
    /// True if private frames are left to the kernel's copy-on-write. Their mappings are not
    /// registered, either.
    left: bool,
    /// Private pages that the last look at them found, while they are left to the kernel.
    seen: u32,
    /// Chunks in a row, up to this one, that were copied whole at or before their first touch.
    pub streak: u32,
    /// True if the chunk is a whole copy that is not one page of the medium: its page tables are
    /// filled when it is mapped.
    pub small_pages: bool,
    /// Blocks of a snapshot that a copy has taken the place of, before it was touched.
    pub prepared_from: Option<ChunkMap>,
    /// True if the blocks are mapped at the guest's addresses.
    mapped: bool,
    /// True if no private frame was written before it was armed, or all that were are own by now.
    reconciled: bool,
    /// True if all of the chunk is one mapping of which nothing was ever armed.
    never_armed: bool,
    /// True if the chunk is in the list of those that the next snapshot gets.
    dirty: bool,
    /// Pool chunk for copies of this chunk.
    pub set_aside: SetAside,
    /// Frames that the guest wrote in the last epochs.
    pub history: WriteHistory,
}

/// State of one chunk, or that there is none yet.
#[derive(Debug, Default)]
pub(super) enum LiveChunk {
    /// The chunk is as in the snapshot that the VM came from, or was never written. It is not
    /// mapped: the first access is held.
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
            stayed_own: FrameSet::EMPTY,
            armed_ahead: FrameSet::EMPTY,
            private: FrameSet::EMPTY,
            unarmed: FrameSet::EMPTY,
            left: false,
            seen: 0,
            streak: 0,
            small_pages: false,
            prepared_from: None,
            mapped: false,
            reconciled: true,
            never_armed: false,
            dirty: false,
            set_aside: SetAside::default(),
            history: WriteHistory::default(),
        }
    }

    /// A chunk of a snapshot that is mapped shared, and armed.
    pub fn mapped_shared(chunk: ChunkNo) -> Self {
        Self {
            mapped: true,
            ..Self::unmapped(ChunkMap::Whole(chunk), FrameSet::EMPTY)
        }
    }

    /// The block behind every frame.
    pub fn map(&self) -> &ChunkMap {
        &self.map
    }

    /// The block behind `frame`; `None` for a hole.
    pub fn block(&self, frame: impl Into<FrameIndex>) -> Option<BlockNo> {
        self.map.block(frame)
    }

    /// Frames that have a block.
    pub fn backed(&self) -> FrameSet {
        match &self.map {
            ChunkMap::Hole => FrameSet::EMPTY,
            ChunkMap::Whole(_) => FrameSet::FULL,
            ChunkMap::Frames(_) => self.map.present(),
        }
    }

    /// Frames that the guest may write without a copy.
    pub fn own(&self) -> &FrameSet {
        &self.own
    }

    /// True if the guest may write `frame` without a copy.
    pub fn is_own(&self, frame: impl Into<FrameIndex>) -> bool {
        self.own.contains(frame)
    }

    /// Frames that became own since some or all of the chunk was shared.
    pub fn own_since_share(&self) -> FrameSet {
        self.own.minus(&self.stayed_own)
    }

    /// Blocks of own frames.
    pub fn own_blocks(&self) -> Vec<BlockNo> {
        let own = self.own.iter();
        own.filter_map(|frame| self.block(frame)).collect()
    }

    /// Own frames that are armed ahead of a snapshot.
    pub fn armed_ahead(&self) -> &FrameSet {
        &self.armed_ahead
    }

    /// Frames that are mapped privately.
    pub fn private(&self) -> &FrameSet {
        &self.private
    }

    /// Private frames that are not armed yet.
    pub fn unarmed(&self) -> FrameSet {
        self.unarmed.intersection(&self.private)
    }

    /// True if private frames are left to the kernel's copy-on-write.
    pub fn is_left(&self) -> bool {
        self.left && !self.unarmed().is_empty()
    }

    /// True if writes to `frame` are left to the kernel's copy-on-write.
    pub fn is_left_frame(&self, frame: FrameIndex) -> bool {
        self.left && self.unarmed().contains(frame)
    }

    /// True if the chunk was copied whole before its first touch, which is still to come.
    pub fn is_prepared(&self) -> bool {
        self.prepared_from.is_some() && !self.mapped && self.own.is_full()
    }

    /// Ends the use of a copy that was not touched. Returns it.
    pub fn take_prepared(&mut self) -> Option<ChunkNo> {
        if !self.is_prepared() {
            return None;
        }
        let copy = std::mem::replace(&mut self.map, self.prepared_from.take()?);
        self.own = FrameSet::EMPTY;
        self.streak = 0;
        match copy {
            ChunkMap::Whole(copy) => Some(copy),
            _ => None,
        }
    }

    /// Notes how many private pages there are. Returns the number that was noted before.
    pub fn note_seen(&mut self, pages: u32) -> u32 {
        std::mem::replace(&mut self.seen, pages)
    }

    /// True if the blocks are mapped at the guest's addresses.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// False while private frames may have been written before they were armed.
    pub fn is_reconciled(&self) -> bool {
        self.reconciled
    }

    /// Frames that the guest is expected to write soon, and that it cannot without a copy.
    pub fn hot_now(&self) -> FrameSet {
        let expected = self.history.expected().minus(&self.own);
        if expected.is_empty() {
            return expected;
        }
        expected.intersection(&self.backed())
    }

    /// Puts other blocks behind frames, and keeps the map in its shortest form.
    pub fn replace(&mut self, targets: &[(FrameIndex, BlockNo)]) {
        self.never_armed = false;
        put_blocks(
            &mut self.map,
            targets.iter().map(|(frame, block)| (*frame, Some(*block))),
        );
    }

    /// Puts one chunk of the pool behind all frames, mapped shared.
    pub fn replace_all(&mut self, chunk: ChunkNo) {
        self.map = ChunkMap::Whole(chunk);
        self.private = FrameSet::EMPTY;
        self.never_armed = true;
    }

    /// True if all of the chunk is one mapping of which nothing was ever armed.
    pub fn is_never_armed(&self) -> bool {
        self.never_armed
    }

    /// Notes that frames are about to be armed.
    pub fn note_arming(&mut self) {
        self.never_armed = false;
    }

    /// Notes that the blocks are mapped now.
    pub fn note_mapped(&mut self) {
        self.mapped = true;
    }

    /// Notes that all shared frames get mapped privately, as in a chunk that is not mapped yet.
    pub fn note_shared_are_private(&mut self) {
        self.private = self.backed().minus(&self.own);
    }

    /// Notes that frames are mapped privately and not armed.
    pub fn note_unarmed(&mut self, frames: &FrameSet) {
        self.private = self.private.union(frames);
        self.unarmed = self.unarmed.union(frames);
    }

    /// Notes that all private frames are left to the kernel's copy-on-write.
    pub fn note_left(&mut self) {
        self.unarmed = self.private;
        self.left = true;
        self.seen = 0;
    }

    /// Notes that every private frame is armed.
    pub fn note_armed(&mut self) {
        self.unarmed = FrameSet::EMPTY;
        self.left = false;
    }

    /// Notes that frames are mapped shared.
    pub fn note_mapped_shared(&mut self, frames: &FrameSet) {
        self.private = self.private.minus(frames);
    }

    /// Notes that own frames are armed ahead of a snapshot.
    pub fn note_armed_ahead(&mut self, frames: &FrameSet) {
        self.never_armed = false;
        self.armed_ahead = self.armed_ahead.union(frames);
    }

    /// Notes that frames are not armed any more.
    pub fn note_disarmed(&mut self, frames: &FrameSet) {
        self.armed_ahead = self.armed_ahead.minus(frames);
    }

    /// Ends arming ahead, as the snapshot is there. Returns the frames that were armed.
    pub fn take_armed_ahead(&mut self) -> FrameSet {
        std::mem::take(&mut self.armed_ahead)
    }

    /// Makes frames own. Returns the number of those that were not.
    pub fn make_own(&mut self, frames: &FrameSet) -> u32 {
        let new = frames.minus(&self.own).count();
        self.own = self.own.union(frames);
        new
    }

    /// Makes frames shared that were own. The others stay as they are.
    pub fn make_shared(&mut self, frames: &FrameSet) {
        self.never_armed = false;
        self.own = self.own.minus(frames);
        self.stayed_own = self.own;
        self.armed_ahead = self.armed_ahead.minus(frames);
    }

    /// Makes all frames shared. Those that are armed ahead stay noted as that. Returns the frames
    /// that were own.
    pub fn share_all(&mut self) -> FrameSet {
        self.dirty = false;
        self.never_armed = false;
        self.stayed_own = FrameSet::EMPTY;
        std::mem::take(&mut self.own)
    }

    /// Puts the blocks of a snapshot behind all frames, of which `changed` are mapped anew: shared,
    /// and armed. No frame is own then.
    pub fn put_back(&mut self, map: ChunkMap, changed: &FrameSet) {
        self.map = map;
        self.own = FrameSet::EMPTY;
        self.stayed_own = FrameSet::EMPTY;
        self.armed_ahead = FrameSet::EMPTY;
        self.private = self.private.minus(changed);
        self.unarmed = self.unarmed.minus(changed);
        (self.left, self.seen, self.streak) = (false, 0, 0);
        (self.never_armed, self.small_pages, self.prepared_from) = (false, false, None);
        self.dirty = false;
    }

    /// Sets whether private frames may have been written before they were armed. Returns true if
    /// that is a change.
    pub fn set_reconciled(&mut self, reconciled: bool) -> bool {
        std::mem::replace(&mut self.reconciled, reconciled) != reconciled
    }

    /// Marks the chunk as one that the next snapshot gets. Returns true if it was not marked.
    pub fn set_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.dirty, true)
    }

    /// Frames that lie beside each other in the pool too and are mapped alike: one run is one
    /// mapping.
    pub fn mapped_runs(&self, frames: &FrameSet) -> Vec<MappedRun> {
        let mut runs: Vec<MappedRun> = Vec::new();
        for frame in frames.places() {
            let Some(block) = self.block(frame) else {
                continue;
            };
            let private = self.private.contains(frame);
            match runs.last_mut() {
                Some(run) if run.continues_with(frame, block, private) => run.frames.end += 1,
                _ => runs.push(MappedRun::single(frame, block, private)),
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
    /// True if a write must not reach the blocks.
    pub private: bool,
}

impl MappedRun {
    /// A chunk of the pool behind all frames, mapped shared.
    pub fn whole(chunk: ChunkNo) -> Self {
        Self {
            frames: 0..crate::cow::CHUNK_FRAMES,
            block: chunk.first_block(),
            private: false,
        }
    }

    fn single(frame: FrameIndex, block: BlockNo, private: bool) -> Self {
        Self {
            frames: frame.get()..frame.get() + 1,
            block,
            private,
        }
    }

    fn continues_with(&self, frame: FrameIndex, block: BlockNo, private: bool) -> bool {
        self.frames.end == frame.get()
            && u64::from(block.get()) == u64::from(self.block.get()) + self.frames.len() as u64
            && private == self.private
    }
}

/// Runs of frames that go to consecutive blocks.
pub(super) fn target_runs(targets: &[(FrameIndex, BlockNo)]) -> Vec<MappedRun> {
    let mut runs: Vec<MappedRun> = Vec::new();
    for (frame, block) in targets {
        match runs.last_mut() {
            Some(run) if run.continues_with(*frame, *block, false) => run.frames.end += 1,
            _ => runs.push(MappedRun::single(*frame, *block, false)),
        }
    }
    runs
}

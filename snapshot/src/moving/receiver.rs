//! Receives what a stream says: into the holder's own blocks, with commits that keep them.

use std::sync::Arc;

use super::base::{Onto, alike, base_of, like, unfinished};
use super::content::{Content, is_zero};
use super::receive::ReceiveOptions;
use super::room::Room;
use super::root::ReceivedRoot;
use crate::catalog::{Listed, Listing};
use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::diff::{chunk_at, next_index};
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::{Holder, NewMap, NewSnapshot, Provenance};
use crate::identity::ContentRoot;
use crate::layout::inode::{Inode, MapKind, SnapshotKind};
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, FrameIndex, FrameSet,
    SnapshotId,
};
use crate::region::Medium;
use crate::stream::{ChunkRecord, StreamHeader};

/// Counts of received frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) stored: u64,
    pub(super) found: u64,
    pub(super) shared: u64,
}

/// A snapshot of this pool that is pinned as long as the reception lasts.
struct Source {
    inode: Arc<Inode>,
}

impl Source {
    fn of(listed: &Listed) -> Source {
        Source {
            inode: Arc::clone(&listed.inode),
        }
    }

    /// The map of the same thing. A disk of another size is another one.
    fn map(&self, pool: &Arc<Pool>, kind: MapKind, size_bytes: u64) -> Option<FrameMap> {
        let map = self.inode.map(kind)?;
        let is_same = map.size_bytes() == size_bytes;
        is_same.then(|| FrameMap::new(pool, self.inode.id, map))
    }
}

/// Memory or a disk that is received.
pub(super) struct Target {
    kind: MapKind,
    size_bytes: u64,
    /// As the snapshot has it that the stream builds on.
    base: Option<FrameMap>,
    /// As the incomplete file began.
    pub(super) start: Option<FrameMap>,
    /// Differences from the incomplete file as it was committed last.
    pub(super) changes: Vec<(ChunkIndex, ChunkMap)>,
}

impl Target {
    fn chunks_total(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(CHUNK_SIZE_BYTES)).unwrap_or(u32::MAX)
    }

    fn new_map(&self) -> NewMap<'_> {
        NewMap {
            kind: self.kind,
            size_bytes: self.size_bytes,
            changes: &self.changes,
        }
    }
}

/// Memory and all disks of a stream.
fn targets(
    pool: &Arc<Pool>,
    header: &StreamHeader,
    base: Option<&Source>,
    start: Option<&Source>,
) -> Vec<Target> {
    let disks = header.disks.iter();
    let disks = disks.map(|disk| (disk.kind(), disk.size_bytes));
    let maps = [(MapKind::Memory, header.memory_bytes)];
    let all = maps.into_iter().chain(disks);
    let target = |(kind, size_bytes)| Target {
        kind,
        size_bytes,
        base: base.and_then(|source| source.map(pool, kind, size_bytes)),
        start: start.and_then(|source| source.map(pool, kind, size_bytes)),
        changes: Vec::new(),
    };
    all.map(target).collect()
}

/// A reception under way.
pub(super) struct Receiver {
    pub(super) pool: Arc<Pool>,
    pub(super) holder: Holder,
    name: String,
    header: StreamHeader,
    parent: Option<SnapshotId>,
    /// The snapshot that the stream builds on.
    base: Option<Source>,
    /// The file that the incomplete one began as: an earlier reception's, or a snapshot that is
    /// likely to be alike.
    start: Option<Source>,
    resumed: bool,
    /// The incomplete file as it was committed last.
    kept: Option<SnapshotId>,
    /// Memory, and then the disks.
    pub(super) targets: Vec<Target>,
    /// The one that is being received, and its first chunk that no record was about.
    pub(super) at: usize,
    next: u32,
    pub(super) counts: Counts,
    stored_unkept: u64,
    /// The state that the incomplete file has, if a VM runs on it.
    pub(super) early_state: Vec<u8>,
    room: Room,
    /// The root of the content of what is in this pool, of what is before `next`.
    root: ReceivedRoot,
    /// True when VMs on the medium map whole chunks only.
    whole_chunks: bool,
    content: Content,
    compared: Content,
}

impl Receiver {
    /// Finds what the stream builds on, checks that there is room for it, and takes the name with
    /// an incomplete file, or the one that is there.
    pub(super) fn begin(
        pool: &Arc<Pool>,
        name: &str,
        header: &StreamHeader,
        options: &ReceiveOptions<'_>,
    ) -> Result<Receiver> {
        crate::name::check_name(name)?;
        let holder = pool.hold("receive")?;
        let onto = options
            .onto
            .map(|onto| Onto::find(pool, &holder, onto, header))
            .transpose()?;
        let mut lock = CatalogLock::take(pool)?;
        // A commit of disks would upgrade the pool while others have it open.
        if !header.disks.is_empty() && !pool.store.keeps_disks {
            return Err(Error::NoDisksYet);
        }
        let listing = lock.listing()?;
        let unfinished = unfinished(&lock, &listing, name, header, options.beside)?;
        let base = base_of(pool, &listing, header, onto.as_ref())?;
        let named = options.like.map(|name| like(pool, &listing, header, name));
        let start = unfinished.or(base).or(named.transpose()?);
        let start = start.or_else(|| alike(&listing, header));
        for listed in [start, base].into_iter().flatten() {
            holder.pin_id(&lock, listed.inode.id)?;
        }
        let parent = header.parent.and_then(|identity| {
            let mut named = listing.named();
            named.find(|listed| listed.inode.identity == identity)
        });
        let parent = parent.or(base).map(|listed| listed.inode.id);
        drop(lock);
        // What a whole stream may find here is not stored. What an earlier reception stored is.
        let found_at_most = match (unfinished, base, start) {
            (Some(listed), ..) | (None, None, Some(listed)) => listed.inode.frames_mapped,
            _ => 0,
        };
        let needed = header
            .frames_written
            .unwrap_or(0)
            .saturating_sub(found_at_most);
        let room = Room::begin(pool, holder.slot(), options.limit_bytes, needed)?;
        let base = base.map(Source::of);
        let start = start.map(Source::of);
        let root_of_base = base.as_ref().and_then(|base| base.inode.content_root);
        let mut receiver = Receiver {
            name: name.to_owned(),
            header: header.clone(),
            parent,
            targets: targets(pool, header, base.as_ref(), start.as_ref()),
            base,
            start,
            resumed: unfinished.is_some(),
            kept: unfinished.map(|listed| listed.inode.id),
            at: 0,
            next: 0,
            counts: Counts::default(),
            stored_unkept: 0,
            early_state: Vec::new(),
            room,
            root: ReceivedRoot::begin(pool, header.kind, root_of_base),
            whole_chunks: pool.medium() == Medium::Hugetlbfs && header.kind == SnapshotKind::Vm,
            content: Content::new(),
            compared: Content::new(),
            pool: Arc::clone(pool),
            holder,
        };
        if !receiver.resumed {
            let start = receiver.start.as_ref().map(|start| start.inode.id);
            receiver.kept = Some(receiver.commit(start, None)?);
        }
        Ok(receiver)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn since(&self) -> Option<String> {
        self.base.as_ref().map(|base| base.inode.name.clone())
    }

    /// The snapshot that was compared with, if it is neither the base nor an earlier reception's.
    pub(super) fn like(&self) -> Option<String> {
        let start = self
            .start
            .as_ref()
            .filter(|_| !self.resumed && self.base.is_none());
        start.map(|start| start.inode.name.clone())
    }

    /// Frames stored since the last commit.
    pub(super) fn stored_unkept(&self) -> u64 {
        self.stored_unkept
    }

    /// True when others use the pool.
    pub(super) fn has_others(&self) -> bool {
        self.room.has_others()
    }

    /// True when something is stored that a later reception can use.
    pub(super) fn is_worth_keeping(&self) -> bool {
        self.resumed || self.counts.stored > 0
    }

    /// Takes note of the saved state, which comes before all chunks.
    pub(super) fn state(&mut self, state: &[u8]) {
        self.root.state(self.header.memory_bytes, state);
    }

    /// Reads what the file that the incomplete one began as has in a chunk: content that is likely
    /// to be what arrives. None if there is no such file, or it has nothing there.
    pub(super) fn here(
        &mut self,
        map: usize,
        index: ChunkIndex,
    ) -> Result<Option<(FrameSet, &[u8])>> {
        let start = self
            .targets
            .get(map)
            .and_then(|target| target.start.as_ref());
        let there = map_of(start, index)?;
        if there.count() == 0 {
            return Ok(None);
        }
        let frames = there.present();
        self.compared.read(&self.pool, &there, &frames)?;
        let counted = self.compared.counted(self.header.kind, &frames);
        Ok((!counted.is_empty()).then_some((counted, self.compared.all())))
    }

    /// Stores what a record says of a chunk.
    pub(super) fn chunk(&mut self, record: &ChunkRecord) -> Result<()> {
        self.begin_target(record.map)?;
        self.unmentioned_until(record.index.get())?;
        self.next = record.index.get() + 1;
        let target = self.target()?;
        let before = map_of(target.start.as_ref(), record.index)?;
        let base = map_of(target.base.as_ref(), record.index)?;
        // VMs do not map disks.
        let kind = target.kind;
        let whole_chunks = self.whole_chunks && kind == MapKind::Memory;
        self.counts.received += u64::from(record.written.count());
        let now = if whole_chunks {
            self.whole_chunk(record, &before, &base)?
        } else {
            self.frames(record, &before, &base)?
        };
        self.root.chunk((kind, record.index), &now, now == base)?;
        if now != before {
            self.targets[self.at].changes.push((record.index, now));
        }
        Ok(())
    }

    /// Ends the stream: the rest of memory and disks is as in the base, or holes.
    pub(super) fn rest(&mut self) -> Result<()> {
        self.begin_target(self.targets.len() - 1)?;
        self.unmentioned_until(self.target()?.chunks_total())
    }

    pub(super) fn target(&self) -> Result<&Target> {
        let target = self.targets.get(self.at);
        target.ok_or_else(|| Error::stream_damaged("it has more disks than its header"))
    }

    /// Ends what is before this map.
    fn begin_target(&mut self, at: usize) -> Result<()> {
        while self.at < at {
            self.unmentioned_until(self.target()?.chunks_total())?;
            if let Some(disk) = self.header.disks.get(self.at) {
                self.root.disk(disk);
            }
            (self.at, self.next) = (self.at + 1, 0);
        }
        Ok(())
    }

    /// Takes chunks from the base that no record is about. Holes of any size cost nothing.
    fn unmentioned_until(&mut self, end: u32) -> Result<()> {
        let target = &mut self.targets[self.at];
        let id = |map: &Option<FrameMap>| map.as_ref().map(FrameMap::snapshot);
        let as_it_should_be = id(&target.start) == id(&target.base);
        let sides = [&target.base, &target.start].map(|map| {
            let map = map.iter();
            map.flat_map(|map| map.iter_present_from(self.next))
                .peekable()
        });
        let mut sides = sides;
        while let Some(index) = next_index(&mut sides)?.filter(|index| index.get() < end) {
            let [now, before] = sides.each_mut().map(|side| chunk_at(side, index));
            self.counts.shared += u64::from(now.count());
            self.root.chunk((target.kind, index), &now, true)?;
            if !as_it_should_be && now != before {
                target.changes.push((index, now));
            }
        }
        drop(sides);
        self.next = self.next.max(end);
        Ok(())
    }

    /// A chunk of a medium that shares blocks one by one.
    pub(super) fn frames(
        &mut self,
        record: &ChunkRecord,
        before: &ChunkMap,
        base: &ChunkMap,
    ) -> Result<ChunkMap> {
        let mut blocks = base.to_leaf();
        record
            .emptied
            .places()
            .for_each(|frame| blocks.set(frame, None));
        // The sender has compared with the blocks of the base.
        let mut candidates = record.written;
        for frame in record.written.places() {
            if before.block(frame).is_none() || before.block(frame) == base.block(frame) {
                candidates.remove(frame);
            }
        }
        self.compared.read(&self.pool, before, &candidates)?;
        let mut missing = FrameSet::EMPTY;
        for (frame, bytes) in record.frames() {
            blocks.set(frame, before.block(frame));
            if !candidates.contains(frame) || self.compared.frame(frame) != bytes {
                missing.insert(frame);
            }
        }
        self.room.take(u64::from(missing.count()))?;
        let fresh = self.fresh_blocks(missing.count())?;
        for (frame, block) in missing.places().zip(&fresh) {
            blocks.set(frame, Some(*block));
        }
        for (frame, bytes) in record
            .frames()
            .filter(|(frame, _)| missing.contains(*frame))
        {
            if let Some(block) = blocks.get(frame) {
                self.holder.write_block(block, bytes)?;
            }
        }
        self.stored(u64::from(missing.count()));
        self.counts.found += u64::from(record.written.minus(&missing).count());
        self.counts.shared += u64::from(blocks.count() - record.written.count());
        Ok(ChunkMap::Frames(Arc::new(blocks)).simplified())
    }

    /// Blocks for frames that follow each other, as a whole chunk if there is one for that many.
    fn fresh_blocks(&self, count: u32) -> Result<Vec<BlockNo>> {
        if count == CHUNK_BLOCKS {
            match self.holder.alloc_chunk() {
                Err(Error::PoolFull { .. }) => {}
                chunk => return chunk.map(|chunk| chunk.blocks().collect()),
            }
        }
        let mut blocks = self.holder.alloc_blocks(count)?;
        blocks.sort_unstable();
        Ok(blocks)
    }

    /// A chunk of a medium that shares whole chunks only: as before, as in the base, or written as
    /// a whole.
    fn whole_chunk(
        &mut self,
        record: &ChunkRecord,
        before: &ChunkMap,
        base: &ChunkMap,
    ) -> Result<ChunkMap> {
        self.content.clear();
        self.content.read(&self.pool, base, &FrameSet::FULL)?;
        for frame in record.emptied.places() {
            self.content.frame_mut(frame).fill(0);
        }
        for (frame, bytes) in record.frames() {
            self.content.frame_mut(frame).copy_from_slice(bytes);
        }
        if self
            .content
            .all()
            .chunks(BLOCK_SIZE_BYTES as usize)
            .all(is_zero)
        {
            return Ok(ChunkMap::Hole);
        }
        if matches!(before, ChunkMap::Whole(_)) {
            self.compared.read(&self.pool, before, &FrameSet::FULL)?;
            if self.compared.all() == self.content.all() {
                self.counts.found += u64::from(record.written.count());
                return Ok(before.clone());
            }
        }
        self.room.take(u64::from(CHUNK_BLOCKS))?;
        let chunk = self.holder.alloc_chunk()?;
        for frame in FrameIndex::all() {
            let bytes = self.content.frame(frame);
            // A fresh block reads as zero.
            if !is_zero(bytes) {
                self.holder.write_block(chunk.block(frame), bytes)?;
            }
        }
        self.stored(u64::from(CHUNK_BLOCKS));
        Ok(ChunkMap::Whole(chunk))
    }

    fn stored(&mut self, frames: u64) {
        self.counts.stored += frames;
        self.stored_unkept += frames;
    }

    /// Commits what has arrived, incomplete as it is.
    pub(super) fn keep(&mut self) -> Result<SnapshotId> {
        self.assert_not_removed()?;
        for target in &mut self.targets {
            target.changes.sort_by_key(|(index, _)| *index);
        }
        let id = self.commit(self.kept, None)?;
        self.forget_changes();
        self.stored_unkept = 0;
        if let Some(before) = self.kept.replace(id) {
            self.unpin_kept(before)?;
        }
        Ok(id)
    }

    /// The root of the content of what is in this pool.
    pub(super) fn root(&self) -> Option<ContentRoot> {
        self.root.root()
    }

    /// Commits the snapshot, if its content is what the stream says that it is.
    pub(super) fn complete(&mut self, state: &[u8]) -> Result<SnapshotId> {
        self.complete_with(state, self.root())
    }

    /// The same, of a content whose root was computed by other means.
    pub(super) fn complete_with(
        &mut self,
        state: &[u8],
        root: Option<ContentRoot>,
    ) -> Result<SnapshotId> {
        if self.header.root.is_some_and(|named| Some(named) != root) {
            return Err(Error::stream_damaged(
                "its content is not the one that its header names: it does not fit what it builds \
                 on, or was not written by 'nvvmm send'",
            ));
        }
        self.assert_not_removed()?;
        let id = self.commit(self.kept, Some((state, root)))?;
        self.forget_changes();
        self.root.keep();
        self.holder.unpin_others(id)?;
        Ok(id)
    }

    /// The changes are committed.
    fn forget_changes(&mut self) {
        let targets = self.targets.iter_mut();
        targets.for_each(|target| target.changes.clear());
    }

    /// Removes what has arrived.
    pub(super) fn discard(&self) -> Result<()> {
        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        match self.kept_in(&listing) {
            Some(listed) => lock.remove(listed).map(drop),
            None => Ok(()),
        }
    }

    /// One commit: the snapshot with its state, or without one what there is of it. It takes the
    /// place of what was kept.
    fn commit(
        &self,
        on: Option<SnapshotId>,
        whole: Option<(&[u8], Option<ContentRoot>)>,
    ) -> Result<SnapshotId> {
        let new = NewSnapshot {
            name: &self.name,
            kind: self.header.kind,
            parent: self.parent,
            base: on,
            maps: self.targets.iter().map(Target::new_map).collect(),
            state: whole.map_or(&self.early_state, |(state, _)| state),
            frames_new: self.header.frames_new,
        };
        let origin = Provenance {
            identity: self.header.identity,
            created_unix_ns: self.header.created_unix_ns,
            frames_new: self.header.frames_new,
            incomplete: whole.is_none(),
            foreign: true,
            // An incomplete file carries the root that it will have.
            content_root: whole.map_or(self.header.root, |(_, root)| root),
        };
        let reservation = self.holder.reserve(0)?;
        let committed =
            self.holder
                .commit_of(new, &[], Some(origin), self.kept.as_slice(), reservation)?;
        Ok(committed.id)
    }

    fn unpin_kept(&self, id: SnapshotId) -> Result<()> {
        let sources = [self.start.as_ref(), self.base.as_ref()];
        if sources
            .into_iter()
            .flatten()
            .any(|source| source.inode.id == id)
        {
            return Ok(());
        }
        self.holder.unpin(id)
    }

    /// Fails when a user has removed the incomplete file meanwhile: that ends the reception.
    fn assert_not_removed(&self) -> Result<()> {
        let listing = CatalogLock::take(&self.pool)?.listing()?;
        match self.kept_in(&listing) {
            Some(_) => Ok(()),
            None => Err(self.pool.not_found(&self.name, &listing)),
        }
    }

    fn kept_in<'l>(&self, listing: &'l Listing) -> Option<&'l Listed> {
        let listed = listing.by_id(self.kept?);
        listed.filter(|listed| !listed.inode.orphan)
    }
}

pub(super) fn map_of(map: Option<&FrameMap>, index: ChunkIndex) -> Result<ChunkMap> {
    map.map_or(Ok(ChunkMap::Hole), |map| map.chunk(index))
}

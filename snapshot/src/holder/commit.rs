//! Committing a snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Holder, Reservation};
use crate::catalog::{BlockSource, CatalogEdit, CatalogLock, Commit, Listing};
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::frame_map::FrameMap;
use crate::identity::Identity;
use crate::layout::holder_slot::{PINS_MAX, PINS_MAX_OF_OTHERS};
use crate::layout::inode::{Inode, STATE_BYTES_MAX, SnapshotKind, map_height};
use crate::layout::node::{Entry, NodeKind, leaves_covered};
use crate::name::check_name;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, ChunkIndex, ChunkNo, FrameSet, SnapshotId,
};
use crate::store::{by_chunk, runs};
use crate::tree::{self, Place};

/// What a removal by the same commit takes at most: another inode, if somebody pins it, and a leaf
/// of the catalog.
pub(crate) const BLOCKS_PER_REPLACED: u32 = 2;

/// A snapshot to be committed.
#[derive(Debug, Clone, Copy)]
pub struct NewSnapshot<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is of.
    pub kind: SnapshotKind,
    /// The snapshot that it was taken after, for people to see.
    pub parent: Option<SnapshotId>,
    /// Size of the guest's memory, or of all pages of a process image; a multiple of 4096.
    pub memory_bytes: u64,
    /// The snapshot of the same kind whose map is the starting point, pinned by the holder; none:
    /// all holes.
    pub base: Option<SnapshotId>,
    /// What differs from the base, sorted by chunk index. Blocks named here are mine, or a
    /// snapshot that I pin has them.
    pub changes: &'a [(ChunkIndex, ChunkMap)],
    /// The machine's saved state, at most 2 MiB.
    pub state: &'a [u8],
    /// How many frames were written since the base, for people to see.
    pub frames_new: u64,
}

impl NewSnapshot<'_> {
    /// How many pins there may be with its own.
    fn pins_max(&self) -> usize {
        match self.kind {
            SnapshotKind::Vm => PINS_MAX,
            SnapshotKind::Process => PINS_MAX_OF_OTHERS,
        }
    }

    fn check(&self) -> Result<()> {
        check_name(self.name)?;
        map_height(self.memory_bytes)?;
        if self.state.len() > STATE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the machine's state has {} bytes, {STATE_BYTES_MAX} is the limit",
                self.state.len()
            )));
        }
        let chunks = self.memory_bytes.div_ceil(CHUNK_SIZE_BYTES);
        if !self
            .changes
            .is_sorted_by(|(left, _), (right, _)| left < right)
        {
            return Err(Error::invalid(
                "the changed chunks are not sorted, or one is named twice",
            ));
        }
        match self.changes.last() {
            Some((last, _)) if u64::from(last.get()) >= chunks => Err(Error::invalid(format!(
                "chunk {last} is behind the memory's {chunks} chunks"
            ))),
            _ => Ok(()),
        }
    }
}

/// Where a snapshot comes from that was not taken here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) identity: Identity,
    /// When it was taken.
    pub(crate) created_unix_ns: u64,
    /// Its frames that were written since the one before.
    pub(crate) frames_new: u64,
    /// Not all of it is here yet.
    pub(crate) incomplete: bool,
}

/// A snapshot that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The new snapshot.
    pub id: SnapshotId,
    /// Blocks written for its maps, its inode, its state and the catalog.
    pub metadata_blocks: u32,
    /// Time it took to bring the shared blocks to the medium; next to nothing where that is
    /// memory.
    pub flush: Duration,
}

impl Holder {
    /// How many blocks of metadata a commit takes at most.
    pub fn commit_blocks_needed(
        &self,
        memory_bytes: u64,
        changed_chunks: u32,
        state_bytes: usize,
    ) -> u32 {
        let chunks = memory_bytes.div_ceil(CHUNK_SIZE_BYTES);
        let changed = u64::from(changed_chunks).min(chunks);
        let height = map_height(memory_bytes).unwrap_or(0);
        let inner: u64 = (1..=height)
            .map(|level| changed.min(chunks.div_ceil(leaves_covered(level))))
            .sum();
        let state = state_bytes.div_ceil(BLOCK_SIZE_BYTES as usize) as u64;
        // The inode, a leaf of the catalog and its root.
        u32::try_from(changed + inner + state + 3).unwrap_or(u32::MAX)
    }

    /// Commits a snapshot: it exists when this returns, and is pinned by this holder. Its blocks
    /// are no longer mine. The reservation may be smaller than needed: the rest is then taken
    /// now.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::InvalidName`], [`Error::InvalidSnapshot`],
    /// [`Error::NotPinned`] (the base), [`Error::TooManyPins`], [`Error::TooManySnapshots`],
    /// [`Error::PoolFull`], [`Error::Io`]. All blocks are still mine then and no snapshot was
    /// made.
    pub fn commit_snapshot(
        &self,
        new: NewSnapshot<'_>,
        reservation: Reservation,
    ) -> Result<Committed> {
        self.commit_replacing(new, &[], reservation)
    }

    /// The same, and removes other snapshots by the very same commit, as [`Pool::remove`] would.
    /// Ids that are gone already are passed over.
    ///
    /// # Errors
    /// As [`Holder::commit_snapshot`]. Nothing was removed then.
    pub fn commit_replacing(
        &self,
        new: NewSnapshot<'_>,
        replaced: &[SnapshotId],
        reservation: Reservation,
    ) -> Result<Committed> {
        self.commit_of(new, None, replaced, reservation)
    }

    /// The same for a snapshot that may come from another pool. It takes the name of one that it
    /// replaces, and may have blocks of all that this holder pins, anywhere.
    pub(crate) fn commit_of(
        &self,
        new: NewSnapshot<'_>,
        origin: Option<Origin>,
        replaced: &[SnapshotId],
        mut reservation: Reservation,
    ) -> Result<Committed> {
        new.check()?;
        let mut reserved: BTreeMap<ChunkNo, FrameSet> = BTreeMap::new();
        for block in reservation.all() {
            let of_chunk = reserved.entry(block.chunk()).or_default();
            of_chunk.insert(block.index_in_chunk());
        }
        let mine = self.leases.mine();
        let shared = SharedBlocks::find(&new, &mine, &reserved)?;
        let flush_began = Instant::now();
        self.flush_blocks(&shared.mine)?;
        let flush = flush_began.elapsed();
        fault_point(FaultPoint::CommitFramesFlushed);
        let needed = self
            .commit_blocks_needed(new.memory_bytes, new.changes.len() as u32, new.state.len())
            .saturating_add(replaced.len() as u32 * BLOCKS_PER_REPLACED);
        reservation.redeem(needed)?;
        let missing = needed.saturating_sub(reservation.blocks());
        if missing > 0 {
            let more = self.leases.alloc(missing)?;
            reservation.blocks.extend(&more);
            self.leases.provide(&more)?;
        }

        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        let by_name = listing.by_name(new.name);
        if by_name.is_some_and(|listed| origin.is_none() || !replaced.contains(&listed.inode.id)) {
            return Err(Error::NameTaken {
                name: new.name.to_owned(),
            });
        }
        let base = self.base_of(&new, &listing)?;
        let pins = self.pool.store.holder_slot(self.slot)?;
        let pinned = pins
            .pinned()
            .filter_map(|id| Some(Arc::clone(&listing.by_id(id)?.inode)))
            .filter(|inode| {
                origin.is_some() || [inode.kind, new.kind].contains(&SnapshotKind::Process)
            });
        self.check_foreign(&shared.foreign, base.as_ref(), pinned)?;
        let slot = listing.free_slot()?;
        let id = SnapshotId::new(lock.current()?.superblock.next_snapshot_id.get())
            .ok_or_else(|| Error::damaged("the superblock's next snapshot id is 0"))?;

        let mut commit =
            Commit::begin(&mut lock, BlockSource::Reserved(reservation.blocks.clone()))?;
        let origin = match origin {
            Some(origin) => origin,
            None => Origin {
                identity: Identity::random()?,
                created_unix_ns: unix_ns(),
                frames_new: new.frames_new,
                incomplete: false,
            },
        };
        let inode = build_inode(&mut commit, &new, &origin, id, base.as_ref())?;
        let block = commit.put_inode(slot, &inode)?;
        let mut edit = CatalogEdit {
            slots: vec![(slot, Some(block))],
            snapshots_change: 1,
            orphans_change: 0,
            takes_id: true,
        };
        let replaced = replaced.iter().filter_map(|id| listing.by_id(*id));
        for listed in replaced.filter(|listed| !listed.inode.orphan) {
            commit.remove(listed, &mut edit)?;
        }
        let superblock = commit.prepare(&edit)?;
        self.set_pin(id, new.pins_max())?;
        fault_point(FaultPoint::CommitPinned);
        if let Err(error) = commit.switch(superblock) {
            self.clear_pin(id)?;
            return Err(error);
        }
        let written = commit.written().to_vec();
        self.settle_and_keep(commit);
        self.leases.let_go(&written);
        self.leases.let_go(&shared.mine);
        reservation.blocks.retain(|block| !written.contains(block));
        Ok(Committed {
            id,
            metadata_blocks: written.len() as u32,
            flush,
        })
    }

    fn flush_blocks(&self, blocks: &[BlockNo]) -> Result<()> {
        // Before the catalog lock: on a file this may write much.
        let region = &self.pool.store.region;
        self.pool.store.clear_digests_durably(blocks)?;
        for (offset, len) in by_chunk(blocks).flat_map(runs) {
            region.flush_foreign(offset, len)?;
        }
        region.fence()
    }

    fn base_of(&self, new: &NewSnapshot<'_>, listing: &Listing) -> Result<Option<Arc<Inode>>> {
        let Some(id) = new.base else { return Ok(None) };
        let base = listing
            .by_id(id)
            .filter(|_| matches!(self.pin_index(id), Ok(Some(_))));
        let base = base.ok_or(Error::NotPinned { id: id.get() })?;
        if base.inode.kind != new.kind {
            return Err(Error::invalid(format!(
                "it is a {}, its base a {}",
                new.kind, base.inode.kind
            )));
        }
        if base.inode.memory_bytes != new.memory_bytes {
            return Err(Error::invalid(format!(
                "its memory has {} bytes, that of its base {}",
                new.memory_bytes, base.inode.memory_bytes
            )));
        }
        Ok(Some(Arc::clone(&base.inode)))
    }

    /// Blocks that are not mine must be in a snapshot that I pin, so that they stay: in the base's
    /// map of the same chunk, or anywhere in a process image; a process image may have those of
    /// any, and so may what was received.
    fn check_foreign(
        &self,
        foreign: &[(ChunkIndex, Vec<BlockNo>)],
        base: Option<&Arc<Inode>>,
        pinned: impl Iterator<Item = Arc<Inode>>,
    ) -> Result<()> {
        let mut unknown: HashMap<BlockNo, ChunkIndex> = HashMap::new();
        for (index, blocks) in foreign {
            let known: HashSet<BlockNo> = match base {
                None => HashSet::new(),
                Some(inode) => {
                    let place = Place::root(NodeKind::Memory, map_height(inode.memory_bytes)?);
                    let map = tree::lookup(&self.pool.store, inode.map_root, place, *index)?;
                    map.iter_present().map(|(_, block)| block).collect()
                }
            };
            let strange = blocks.iter().filter(|block| !known.contains(block));
            unknown.extend(strange.map(|block| (*block, *index)));
        }
        for inode in pinned {
            if unknown.is_empty() {
                break;
            }
            for chunk in FrameMap::new(Arc::clone(&self.pool), &inode).iter_present() {
                for (_, block) in chunk?.1.iter_present() {
                    unknown.remove(&block);
                }
            }
        }
        match unknown.iter().min() {
            None => Ok(()),
            Some((block, index)) => Err(Error::invalid(format!(
                "chunk {index}: {block} is neither this holder's nor of a snapshot that it pins"
            ))),
        }
    }
}

/// The blocks that a new snapshot refers to by itself.
struct SharedBlocks {
    /// Those of the holder.
    mine: Vec<BlockNo>,
    /// The others, by chunk: the base must have them.
    foreign: Vec<(ChunkIndex, Vec<BlockNo>)>,
}

impl SharedBlocks {
    fn find(
        new: &NewSnapshot<'_>,
        mine: &BTreeMap<ChunkNo, FrameSet>,
        reserved: &BTreeMap<ChunkNo, FrameSet>,
    ) -> Result<SharedBlocks> {
        let mut found = SharedBlocks {
            mine: Vec::new(),
            foreign: Vec::new(),
        };
        for (index, map) in new.changes {
            let mut foreign = Vec::new();
            let blocks: Vec<BlockNo> = map.iter_present().map(|(_, block)| block).collect();
            for blocks in by_chunk(&blocks) {
                let chunk = blocks[0].chunk();
                let of_chunk = |sets: &BTreeMap<ChunkNo, FrameSet>| {
                    sets.get(&chunk).copied().unwrap_or_default()
                };
                let (mine, reserved) = (of_chunk(mine), of_chunk(reserved));
                for block in blocks {
                    if reserved.contains(block.index_in_chunk()) {
                        return Err(Error::invalid(format!(
                            "chunk {index}: {block} is reserved for metadata"
                        )));
                    }
                    if mine.contains(block.index_in_chunk()) {
                        found.mine.push(*block)
                    } else {
                        foreign.push(*block)
                    }
                }
            }
            if !foreign.is_empty() {
                found.foreign.push((*index, foreign));
            }
        }
        Ok(found)
    }
}

fn build_inode(
    commit: &mut Commit<'_, '_>,
    new: &NewSnapshot<'_>,
    origin: &Origin,
    id: SnapshotId,
    base: Option<&Arc<Inode>>,
) -> Result<Inode> {
    let place = Place::root(NodeKind::Memory, map_height(new.memory_bytes)?);
    let root = base.map_or(Entry::Hole, |inode| inode.map_root);
    let map = tree::update(commit, root, place, new.changes)?;
    let frames_before = base.map_or(0, |inode| inode.frames_mapped);
    Ok(Inode {
        id,
        kind: new.kind,
        name: new.name.to_owned(),
        parent: new.parent,
        created_unix_ns: origin.created_unix_ns,
        memory_bytes: new.memory_bytes,
        map_root: map.root,
        orphan: false,
        incomplete: origin.incomplete,
        identity: origin.identity,
        frames_mapped: frames_before.saturating_add_signed(map.entries_change),
        frames_new: origin.frames_new,
        state_bytes: new.state.len() as u32,
        state_checksum: crc32fast::hash(new.state),
        state_blocks: commit.put_state(new.state)?,
    })
}

/// The time of day in nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

//! Committing a snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disks::{DiskFold, fold_disks};
use super::{Holder, Reservation};
use crate::catalog::Listing;
use crate::catalog_lock::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::chunk_map::ChunkMap;
use crate::clock::unix_ns;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::frame_map::FrameMap;
use crate::identity::{ContentRoot, Identity};
use crate::layout::holder_slot::{PINS_MAX, PINS_MAX_OF_OTHERS};
use crate::layout::inode::{
    FileMap, Inode, MapKind, STATE_BYTES_MAX, SnapshotKind, disk_height, map_height, only_map,
};
use crate::layout::node::{Entry, height_for, leaves_covered};
use crate::name::check_name;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, ChunkIndex, ChunkNo, FrameSet, SnapshotId,
};
use crate::store::{by_chunk, runs};
use crate::tree::{self, NodePlace};
use crate::wording::SizeText;

/// Blocks that a removal by the same commit takes at most: another inode, if it is pinned, and a
/// leaf of the catalog.
pub(crate) const BLOCKS_PER_REPLACED: u32 = 2;

/// A map of a snapshot to be committed.
#[derive(Debug, Clone, Copy)]
pub struct NewMap<'a> {
    /// The kind of what is mapped.
    pub kind: MapKind,
    /// Its size; a multiple of 4096, of a disk of 512.
    pub size_bytes: u64,
    /// Differences from the map of the same kind of the base, sorted by chunk index. Blocks named
    /// here are the holder's own, or in a snapshot that the holder pins.
    pub changes: &'a [(ChunkIndex, ChunkMap)],
}

impl<'a> NewMap<'a> {
    /// The map of a guest's memory, or of all pages of a process image.
    pub fn memory(size_bytes: u64, changes: &'a [(ChunkIndex, ChunkMap)]) -> NewMap<'a> {
        NewMap {
            kind: MapKind::Memory,
            size_bytes,
            changes,
        }
    }

    fn check(&self) -> Result<()> {
        match self.kind {
            MapKind::Memory => map_height(self.size_bytes)?,
            MapKind::Disk(name) => disk_height(name.as_str(), self.size_bytes)?,
        };
        let chunks = self.size_bytes.div_ceil(CHUNK_SIZE_BYTES);
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
                "chunk {last} is behind the {chunks} chunks of its {}",
                self.kind
            ))),
            _ => Ok(()),
        }
    }

    /// Blocks of metadata that a commit of the map takes at most.
    pub(super) fn blocks_needed(size_bytes: u64, changed_chunks: u32) -> u64 {
        let chunks = size_bytes.div_ceil(CHUNK_SIZE_BYTES);
        let changed = u64::from(changed_chunks).min(chunks);
        let height = height_for(chunks).unwrap_or(0);
        let inner: u64 = (1..=height)
            .map(|level| changed.min(chunks.div_ceil(leaves_covered(level))))
            .sum();
        changed + inner
    }
}

/// A snapshot to be committed.
#[derive(Debug, Clone)]
pub struct NewSnapshot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its kind: of a VM, or of processes.
    pub kind: SnapshotKind,
    /// The snapshot that it was taken after, for people to see.
    pub parent: Option<SnapshotId>,
    /// The snapshot of the same kind whose maps are the starting point, pinned by the holder; none:
    /// all holes.
    pub base: Option<SnapshotId>,
    /// Its maps, that of memory first. Only one that is received has maps of disks here.
    pub maps: Vec<NewMap<'a>>,
    /// The machine's saved state, at most 2 MiB.
    pub state: &'a [u8],
    /// Number of frames written since the base, for people to see.
    pub frames_new: u64,
}

impl NewSnapshot<'_> {
    /// Number of pins that there may be, its own included.
    fn pins_max(&self) -> usize {
        match self.kind {
            SnapshotKind::Vm => PINS_MAX,
            SnapshotKind::Process => PINS_MAX_OF_OTHERS,
        }
    }

    /// Checks it. One that was received has maps of its disks here; others get them of heads.
    fn check(&self, is_received: bool) -> Result<()> {
        check_name(self.name)?;
        match is_received {
            true => only_map(&self.maps[..self.maps.len().min(1)], |map| map.kind)?,
            false => only_map(&self.maps, |map| map.kind)?,
        };
        if self.state.len() > STATE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the machine's state has {}, and the limit is {}",
                SizeText::needed(self.state.len() as u64),
                SizeText::of(STATE_BYTES_MAX as u64)
            )));
        }
        self.maps.iter().try_for_each(NewMap::check)
    }

    /// Blocks of metadata that its commit takes at most.
    fn blocks_needed(&self) -> u32 {
        let maps = self.maps.iter();
        let maps = maps.map(|map| (map.size_bytes, map.changes.len() as u32));
        blocks_needed(maps, self.state.len())
    }
}

/// Blocks of metadata that a commit takes at most: for maps of these sizes and numbers of changed
/// chunks, and a saved state of this length.
fn blocks_needed(maps: impl IntoIterator<Item = (u64, u32)>, state_bytes: usize) -> u32 {
    let maps: u64 = maps
        .into_iter()
        .map(|(size_bytes, changed_chunks)| NewMap::blocks_needed(size_bytes, changed_chunks))
        .sum();
    let state = state_bytes.div_ceil(BLOCK_SIZE_BYTES as usize) as u64;
    // The inode, a leaf of the catalog and its root.
    u32::try_from(maps + state + 3).unwrap_or(u32::MAX)
}

/// Provenance of a snapshot that was not taken here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Provenance {
    pub(crate) identity: Identity,
    /// The time at which it was taken, in nanoseconds since 1970.
    pub(crate) created_unix_ns: u64,
    /// Its frames that were written since the one before.
    pub(crate) frames_new: u64,
    /// Not all of it is here yet.
    pub(crate) incomplete: bool,
    /// True when it came from elsewhere, or builds on what did.
    pub(crate) foreign: bool,
    /// The root of its content, where that was verified.
    pub(crate) content_root: Option<ContentRoot>,
}

impl Provenance {
    /// The provenance of a snapshot that is taken here and now.
    fn taken_now(frames_new: u64, foreign: bool) -> Result<Provenance> {
        Ok(Provenance {
            identity: Identity::random()?,
            created_unix_ns: unix_ns(),
            frames_new,
            incomplete: false,
            foreign,
            content_root: None,
        })
    }
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
    /// Blocks of metadata that the commit of a snapshot takes at most whose only map is that of its
    /// memory.
    pub fn commit_blocks_needed(
        &self,
        memory_bytes: u64,
        changed_chunks: u32,
        state_bytes: usize,
    ) -> u32 {
        blocks_needed([(memory_bytes, changed_chunks)], state_bytes)
    }

    /// Commits a snapshot: it exists when this returns, and is pinned by this holder. Its blocks
    /// are the holder's own no more. The reservation may be smaller than needed: the rest is then
    /// taken now.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::InvalidName`], [`Error::InvalidSnapshot`],
    /// [`Error::NotPinned`] (the base), [`Error::TooManyPins`], [`Error::TooManySnapshots`],
    /// [`Error::PoolFull`], [`Error::Io`]. All blocks are still the holder's own then, and no
    /// snapshot was made.
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
        self.commit_of(new, &[], None, replaced, reservation)
    }

    /// The same for a snapshot that may have disks, or come from another pool. Such a one takes the
    /// name of one that it replaces, and may have blocks of all that this holder pins, anywhere.
    pub(crate) fn commit_of(
        &self,
        new: NewSnapshot<'_>,
        disks: &[DiskFold<'_>],
        origin: Option<Provenance>,
        replaced: &[SnapshotId],
        mut reservation: Reservation,
    ) -> Result<Committed> {
        new.check(origin.is_some())?;
        self.pool.require_name()?;
        let shared = SharedBlocks::find(&new, &self.leases.own(), &reservation)?;
        let flush_began = Instant::now();
        self.flush_blocks(&shared.own)?;
        let flush = flush_began.elapsed();
        fault_point(FaultPoint::CommitFramesFlushed);
        let needed = new
            .blocks_needed()
            .saturating_add(replaced.len() as u32 * BLOCKS_PER_REPLACED)
            .saturating_add(disks.iter().map(DiskFold::blocks_needed).sum());
        self.complete_reservation(&mut reservation, needed)?;

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
        let origin = self.provenance(origin, &new, base.as_ref())?;
        let mut inode = build_inode(&mut commit, &new, &origin, id, base.as_ref())?;
        let folded = fold_disks(&mut commit, disks, &listing)?;
        folded.add_to(&mut inode, disks);
        let block = commit.put_inode(slot, &inode)?;
        let mut edit = CatalogEdit {
            slots: folded.slots_and(slot, block),
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
        folded.switched(disks);
        let written = commit.written().to_vec();
        self.settle_and_keep(commit);
        self.leases.release(&written);
        self.leases.release(&shared.own);
        reservation.blocks.retain(|block| !written.contains(block));
        Ok(Committed {
            id,
            metadata_blocks: written.len() as u32,
            flush,
        })
    }

    fn provenance(
        &self,
        origin: Option<Provenance>,
        new: &NewSnapshot<'_>,
        base: Option<&Arc<Inode>>,
    ) -> Result<Provenance> {
        let foreign = self.is_foreign() || base.is_some_and(|base| base.foreign);
        origin.map_or_else(|| Provenance::taken_now(new.frames_new, foreign), Ok)
    }

    /// Has the reservation hold `needed` blocks with memory behind them.
    fn complete_reservation(&self, reservation: &mut Reservation, needed: u32) -> Result<()> {
        reservation.redeem(needed)?;
        let missing = needed.saturating_sub(reservation.blocks());
        if missing > 0 {
            let more = self.leases.alloc(missing)?;
            reservation.blocks.extend(&more);
            self.leases.provide(&more)?;
        }
        Ok(())
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
        for map in new.maps.iter().filter(|map| map.kind == MapKind::Memory) {
            let base_bytes = base.inode.map(map.kind).map(FileMap::size_bytes);
            if base_bytes.is_some_and(|base_bytes| base_bytes != map.size_bytes) {
                return Err(Error::invalid(format!(
                    "its {} has {} bytes, that of its base {}",
                    map.kind,
                    map.size_bytes,
                    base_bytes.unwrap_or_default()
                )));
            }
        }
        Ok(Some(Arc::clone(&base.inode)))
    }

    /// Checks that blocks that are not the holder's own stay: a snapshot that the holder pins must
    /// have them. It is the base, in the same chunk of the same map, or a process image, anywhere;
    /// a process image may have blocks of any snapshot, and so may what was received.
    fn check_foreign(
        &self,
        foreign: &[ForeignBlocks],
        base: Option<&Arc<Inode>>,
        pinned: impl Iterator<Item = Arc<Inode>>,
    ) -> Result<()> {
        let mut unknown: HashMap<BlockNo, ChunkIndex> = HashMap::new();
        for ForeignBlocks {
            kind,
            chunk,
            blocks,
        } in foreign
        {
            let known: HashSet<BlockNo> = match base.and_then(|inode| inode.map(*kind)) {
                None => HashSet::new(),
                Some(map) => {
                    let place = NodePlace::root_of(map);
                    let known = tree::lookup(&self.pool.store, map.root, place, *chunk)?;
                    known.iter_present().map(|(_, block)| block).collect()
                }
            };
            let strange = blocks.iter().filter(|block| !known.contains(block));
            unknown.extend(strange.map(|block| (*block, *chunk)));
        }
        for inode in pinned {
            for map in &inode.maps {
                if unknown.is_empty() {
                    return Ok(());
                }
                for chunk in FrameMap::new(&self.pool, inode.id, map).iter_present() {
                    for (_, block) in chunk?.1.iter_present() {
                        unknown.remove(&block);
                    }
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
    own: Vec<BlockNo>,
    /// The others: snapshots that the holder pins must have them.
    foreign: Vec<ForeignBlocks>,
}

/// Blocks of a chunk of a new map that are not the holder's own.
struct ForeignBlocks {
    kind: MapKind,
    chunk: ChunkIndex,
    blocks: Vec<BlockNo>,
}

impl SharedBlocks {
    fn find(
        new: &NewSnapshot<'_>,
        own: &BTreeMap<ChunkNo, FrameSet>,
        reservation: &Reservation,
    ) -> Result<SharedBlocks> {
        let mut reserved: BTreeMap<ChunkNo, FrameSet> = BTreeMap::new();
        for block in reservation.all() {
            let of_chunk = reserved.entry(block.chunk()).or_default();
            of_chunk.insert(block.index_in_chunk());
        }
        let mut found = SharedBlocks {
            own: Vec::new(),
            foreign: Vec::new(),
        };
        let changes = new.maps.iter().flat_map(|map| {
            let changes = map.changes.iter();
            changes.map(|(index, chunk)| (map.kind, *index, chunk))
        });
        for (kind, index, map) in changes {
            let mut foreign = Vec::new();
            let blocks: Vec<BlockNo> = map.iter_present().map(|(_, block)| block).collect();
            for blocks in by_chunk(&blocks) {
                let chunk = blocks[0].chunk();
                let of_chunk = |sets: &BTreeMap<ChunkNo, FrameSet>| {
                    sets.get(&chunk).copied().unwrap_or_default()
                };
                let (own, reserved) = (of_chunk(own), of_chunk(&reserved));
                for block in blocks {
                    if reserved.contains(block.index_in_chunk()) {
                        return Err(Error::invalid(format!(
                            "chunk {index}: {block} is reserved for metadata"
                        )));
                    }
                    if own.contains(block.index_in_chunk()) {
                        found.own.push(*block)
                    } else {
                        foreign.push(*block)
                    }
                }
            }
            if !foreign.is_empty() {
                found.foreign.push(ForeignBlocks {
                    kind,
                    chunk: index,
                    blocks: foreign,
                });
            }
        }
        Ok(found)
    }
}

fn build_inode(
    commit: &mut Commit<'_, '_>,
    new: &NewSnapshot<'_>,
    origin: &Provenance,
    id: SnapshotId,
    base: Option<&Arc<Inode>>,
) -> Result<Inode> {
    let mut maps = Vec::new();
    // The disks that the base has are not those of the new one.
    let mut frames_mapped = base.map_or(0, |inode| inode.frames_of_memory());
    for new in &new.maps {
        // A disk of another size is another one.
        let of_base = base.and_then(|inode| inode.map(new.kind));
        let of_base = of_base.filter(|map| map.size_bytes() == new.size_bytes);
        let root = of_base.map_or(Entry::Hole, |map| map.root);
        let frames_before = of_base.map_or(0, FileMap::frames);
        let map = FileMap::new(new.kind, new.size_bytes, root)?;
        let updated = tree::update(commit, map.root, NodePlace::root_of(&map), new.changes)?;
        let frames = frames_before.saturating_add_signed(updated.entries_change);
        let map = map.with_root(updated.root);
        match new.kind {
            MapKind::Memory => {
                frames_mapped = frames_mapped.saturating_add_signed(updated.entries_change);
                maps.push(map);
            }
            MapKind::Disk(_) => {
                frames_mapped += frames;
                maps.push(map.with_frames(frames));
            }
        }
    }
    Ok(Inode {
        id,
        kind: new.kind,
        name: new.name.to_owned(),
        parent: new.parent,
        created_unix_ns: origin.created_unix_ns,
        disk: None,
        maps,
        orphan: false,
        incomplete: origin.incomplete,
        foreign: origin.foreign,
        identity: origin.identity,
        content_root: origin.content_root,
        frames_mapped,
        frames_new: origin.frames_new,
        state_bytes: new.state.len() as u32,
        state_checksum: crc32fast::hash(new.state),
        state_blocks: commit.put_state(new.state)?,
    })
}

//! Consuming a snapshot: its memory goes over to a holder that will never need the snapshot again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Holder;
use crate::catalog::Listed;
use crate::catalog_lock::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::chunk_map::{ChunkMap, LeafBlocks};
use crate::cleaning::Pace;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::frame_map::FrameMap;
use crate::layout::inode::{Inode, MapKind};
use crate::layout::node::{Entry, Node};
use crate::number::{BlockNo, ChunkIndex, ChunkNo, FrameSet, SnapshotId};
use crate::recovery::reclaim_dead_holders;
use crate::store::BlockStore;
use crate::tree::{self, NodePlace};

/// The memory of a consumed snapshot, and what is left of it.
#[derive(Debug)]
pub struct Consumed {
    /// Each map of the snapshot.
    pub maps: Vec<ConsumedMap>,
    /// The id under which blocks that other snapshots share stay readable, pinned, without a name.
    pub rest: Option<SnapshotId>,
}

impl Consumed {
    /// The chunks of the snapshot's memory that had blocks, in order.
    pub fn memory(&self) -> &[ConsumedChunk] {
        let memory = self.maps.iter().find(|map| map.kind == MapKind::Memory);
        memory.map_or(&[], |map| &map.chunks)
    }

    /// The same, and nothing else of it.
    pub fn into_memory(self) -> Vec<ConsumedChunk> {
        let mut maps = self.maps.into_iter();
        let memory = maps.find(|map| map.kind == MapKind::Memory);
        memory.map_or_else(Vec::new, |map| map.chunks)
    }
}

/// A map of a consumed snapshot.
#[derive(Debug)]
pub struct ConsumedMap {
    /// The kind of what is mapped.
    pub kind: MapKind,
    /// The chunks that had blocks, in order.
    pub chunks: Vec<ConsumedChunk>,
}

/// A chunk of a map of a consumed snapshot.
#[derive(Debug)]
pub struct ConsumedChunk {
    /// Index of the chunk in the map.
    pub index: ChunkIndex,
    /// The blocks of its frames, as the snapshot had them.
    pub map: ChunkMap,
    /// The frames whose blocks are the holder's own now. The blocks of the others are still shared:
    /// not to be written.
    pub taken: FrameSet,
}

impl Holder {
    /// Takes a snapshot that this holder pins out of the catalog. The blocks that nothing else
    /// refers to become the holder's own, unless another holder has leased their chunk; the rest
    /// stays readable. The snapshot's state is gone afterwards: read it before. Do not use frame
    /// maps of the snapshot any more.
    ///
    /// # Errors
    /// [`Error::NotPinned`]; [`Error::Busy`] when another holder pins it; [`Error::PoolFull`].
    /// Nothing was changed then.
    pub fn consume(&self, id: SnapshotId) -> Result<Consumed> {
        loop {
            let consumed = self.consume_now(id);
            // Blocks for the catalog may wait to be cleaned.
            if !matches!(consumed, Err(Error::PoolFull { .. }))
                || self.pool.clean_some(1, Pace::Fast)? == 0
            {
                return consumed;
            }
        }
    }

    fn consume_now(&self, id: SnapshotId) -> Result<Consumed> {
        let mut lock = CatalogLock::take(&self.pool)?;
        // Dead holders do not count as users of the snapshot.
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        let listed = listing
            .by_id(id)
            .filter(|_| matches!(self.pin_index(id), Ok(Some(_))));
        let listed = listed.ok_or(Error::NotPinned { id: id.get() })?;
        self.check_sole_user(&lock, listed)?;

        let taken = self.takeable(&listed.inode)?;
        let mut maps = Vec::new();
        for map in &listed.inode.maps {
            let mut chunks = Vec::new();
            for chunk in FrameMap::new(&self.pool, id, map).iter_present() {
                let (index, map) = chunk?;
                let taken = frames_in(&map, &taken);
                chunks.push(ConsumedChunk { index, map, taken });
            }
            let kind = map.kind;
            maps.push(ConsumedMap { kind, chunks });
        }
        let rest = self.commit_rest(&mut lock, listed, &maps, &taken);
        // Of those nothing was taken if it failed.
        self.leases.end_unused(taken.keys().copied());
        let rest = rest?;
        if rest.is_none() {
            self.clear_pin(id)?;
        }
        Ok(Consumed { maps, rest })
    }

    fn check_sole_user(&self, lock: &CatalogLock<'_>, listed: &Listed) -> Result<()> {
        let others = lock.holders_pinning(listed.inode.id)?;
        let Some(other) = others.into_iter().find(|slot| *slot != self.slot) else {
            return Ok(());
        };
        let slot = lock.store().holder_slot(other)?;
        let holder = format!("'{}' (process {})", slot.name(), slot.pid);
        Err(Error::Busy {
            name: listed.inode.name.clone(),
            holder,
        })
    }

    /// The blocks that only this snapshot refers to, in chunks that no other holder has leased.
    /// This holder has then.
    fn takeable(&self, inode: &Inode) -> Result<Taken> {
        let store = &self.pool.store;
        let mut taken = Taken::default();
        for map in &inode.maps {
            find_own(store, map.root, NodePlace::root_of(map), &mut taken)?;
        }
        for chunk in taken.keys().copied().collect::<Vec<_>>() {
            if !self.leases.lease_to_adopt(chunk)? {
                taken.remove(&chunk);
            }
        }
        Ok(taken)
    }

    /// Commits the catalog without the snapshot, or with what is left of it, and takes the blocks.
    fn commit_rest(
        &self,
        lock: &mut CatalogLock<'_>,
        listed: &Listed,
        consumed: &[ConsumedMap],
        taken: &Taken,
    ) -> Result<Option<SnapshotId>> {
        let mut commit = Commit::begin(lock, BlockSource::unleased())?;
        let mut frames_mapped = listed.inode.frames_mapped;
        let mut maps = Vec::new();
        for (map, consumed) in listed.inode.maps.iter().zip(consumed) {
            let changes: Vec<(ChunkIndex, ChunkMap)> = consumed
                .chunks
                .iter()
                .filter(|chunk| !chunk.taken.is_empty())
                .map(|chunk| (chunk.index, without(&chunk.map, &chunk.taken)))
                .collect();
            let left = tree::update(&mut commit, map.root, NodePlace::root_of(map), &changes)?;
            frames_mapped = frames_mapped.saturating_add_signed(left.entries_change);
            maps.push(map.with_root(left.root));
        }
        let rest = maps.iter().any(|map| map.root != Entry::Hole);
        let was_orphan = i32::from(listed.inode.orphan);
        let block = if rest {
            let orphan = Inode {
                orphan: true,
                maps,
                frames_mapped,
                content_root: None,
                state_bytes: 0,
                state_checksum: 0,
                state_blocks: Vec::new(),
                ..Inode::clone(&listed.inode)
            };
            Some(commit.put_inode(listed.slot, &orphan)?)
        } else {
            None
        };
        let edit = CatalogEdit {
            slots: vec![(listed.slot, block)],
            snapshots_change: was_orphan - 1,
            orphans_change: i32::from(rest) - was_orphan,
            takes_id: false,
        };
        let superblock = commit.prepare(&edit)?;
        commit.switch(superblock)?;
        fault_point(FaultPoint::ConsumeSwitched);
        for (chunk, blocks) in taken {
            self.leases.adopt(*chunk, blocks)?;
        }
        fault_point(FaultPoint::ConsumeLeased);
        commit.settle(|block| {
            taken
                .get(&block.chunk())
                .is_some_and(|set| set.contains(block.index_in_chunk()))
        });
        fault_point(FaultPoint::ConsumeSettled);
        Ok(rest.then_some(listed.inode.id))
    }
}

/// Blocks of the pool, by chunk.
type Taken = BTreeMap<ChunkNo, FrameSet>;

fn find_own(store: &BlockStore, entry: Entry, place: NodePlace, own: &mut Taken) -> Result<()> {
    let mut note = |block: BlockNo| -> Result<()> {
        if store.refcount(block)? == 1 {
            own.entry(block.chunk())
                .or_default()
                .insert(block.index_in_chunk());
        }
        Ok(())
    };
    match entry {
        Entry::Hole => Ok(()),
        Entry::Chunk(chunk) => chunk.blocks().try_for_each(note),
        Entry::Node { block, .. } if store.refcount(block)? != 1 => Ok(()),
        Entry::Node { block, crc24 } => match store.node(block, &place.expect(crc24))? {
            Node::Leaf(blocks) => blocks.iter_present().try_for_each(|(_, block)| note(block)),
            Node::Inner(entries) => {
                let mut entries = entries.iter().enumerate();
                entries
                    .try_for_each(|(index, entry)| find_own(store, *entry, place.child(index), own))
            }
        },
    }
}

fn frames_in(map: &ChunkMap, blocks: &Taken) -> FrameSet {
    let mut frames = FrameSet::default();
    for (index, block) in map.iter_present() {
        if blocks
            .get(&block.chunk())
            .is_some_and(|set| set.contains(block.index_in_chunk()))
        {
            frames.insert(index);
        }
    }
    frames
}

fn without(map: &ChunkMap, taken: &FrameSet) -> ChunkMap {
    let mut left = LeafBlocks::new();
    for (index, block) in map
        .iter_present()
        .filter(|(index, _)| !taken.contains(*index))
    {
        left.set(index, Some(block));
    }
    ChunkMap::Frames(Arc::new(left))
}

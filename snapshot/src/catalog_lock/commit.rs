//! A commit: new metadata goes to free blocks, then one superblock is switched.
//!
//! A crash at any point leaves the old catalog or the new one. Reference counts are changed after
//! the switch. Meanwhile the dirty word is set: the next process to take the lock of a dead one
//! then derives the counts anew.

use std::collections::{BTreeMap, HashSet};

use zerocopy::IntoBytes;

use super::CatalogLock;
use crate::catalog::{Current, note_completed, slot_offset};
use crate::chunk_map::{ChunkMap, LeafBlocks};
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::layout::FORMAT_VERSION_MIN;
use crate::layout::inode::Inode;
use crate::layout::node::{Entry, Node, NodeKind, seal_node};
use crate::layout::runtime::{DIRTY, DIRTY_OFFSET};
use crate::layout::segment::OWNER_LOCKED;
use crate::layout::superblock::{CATALOG_HEIGHT, SuperblockV2};
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkIndex, ChunkNo, FrameIndex, FrameSet,
};
use crate::refs::RefChanges;
use crate::store::{BlockStore, by_chunk};
use crate::tree::{self, Frames, NodePlace, TreeWriter};

/// Free chunks that are tried for metadata: holders may lease them at the same time.
const EMPTY_TRIES: usize = 16;

/// The source of blocks for new metadata.
pub(crate) enum BlockSource {
    /// From a holder's leases, taken ahead.
    Reserved(Vec<BlockNo>),
    /// From chunks that nobody has leased, or from the spare blocks: a removal must be possible in
    /// a full pool.
    Unleased {
        /// Found and not yet given out.
        ready: Vec<BlockNo>,
        /// Found in this commit.
        found: HashSet<BlockNo>,
        /// Chunks that nobody else can lease until the commit is done.
        leased: Vec<ChunkNo>,
    },
}

impl BlockSource {
    pub(crate) fn unleased() -> BlockSource {
        BlockSource::Unleased {
            ready: Vec::new(),
            found: HashSet::new(),
            leased: Vec::new(),
        }
    }

    /// Ends that its chunks are leased.
    fn end(&mut self, store: &BlockStore) -> Result<()> {
        if let BlockSource::Unleased { leased, .. } = self {
            for chunk in leased.drain(..) {
                store.set_lease_owner(chunk, None)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, store: &BlockStore) -> Result<BlockNo> {
        let (ready, found, leased) = match self {
            BlockSource::Reserved(blocks) => {
                return blocks.pop().ok_or(Error::PoolFull { needed: 1, free: 0 });
            }
            BlockSource::Unleased {
                ready,
                found,
                leased,
            } => (ready, found, leased),
        };
        if ready.is_empty() {
            *ready = find_unleased(store, found, leased)?;
            found.extend(ready.iter().copied());
        }
        let block = ready.pop().ok_or(Error::PoolFull { needed: 1, free: 0 })?;
        let full = match provided(store, block) {
            Err(full @ Error::MediumFull { .. }) => full,
            other => return other,
        };
        // Spare blocks keep their memory.
        *ready = spare_blocks(store, found)?;
        found.extend(ready.iter().copied());
        ready
            .pop()
            .map_or(Err(full), |block| provided(store, block))
    }
}

/// The block, once the medium has given memory for it.
fn provided(store: &BlockStore, block: BlockNo) -> Result<BlockNo> {
    let provided = store.region.provide(block.byte_offset(), BLOCK_SIZE_BYTES);
    provided.map(|()| block)
}

/// Those of `blocks` that are free and not among others, in falling order: blocks are taken from
/// the end.
fn free_of(
    store: &BlockStore,
    blocks: impl Iterator<Item = BlockNo>,
    but: &HashSet<BlockNo>,
) -> Result<Vec<BlockNo>> {
    let mut free = Vec::new();
    for block in blocks {
        if !but.contains(&block) && store.refcount(block)? == 0 {
            free.push(block);
        }
    }
    free.reverse();
    Ok(free)
}

fn spare_blocks(store: &BlockStore, but: &HashSet<BlockNo>) -> Result<Vec<BlockNo>> {
    free_of(store, store.layout.spare_blocks(), but)
}

/// Leases a chunk for a commit, if nobody has leased it: holders lease chunks without the catalog
/// lock. In a pool of an old version they do not.
fn lease_for_commit(store: &BlockStore, chunk: ChunkNo, leased: &mut Vec<ChunkNo>) -> Result<bool> {
    if !store.cleans_later {
        return Ok(true);
    }
    let done = store.try_lease(chunk, OWNER_LOCKED)?;
    if done {
        leased.push(chunk);
    }
    Ok(done)
}

/// Free blocks outside of all leases: of a partly used chunk if there is one, else spare ones, else
/// of a free chunk.
fn find_unleased(
    store: &BlockStore,
    but: &HashSet<BlockNo>,
    leased: &mut Vec<ChunkNo>,
) -> Result<Vec<BlockNo>> {
    let mut take = |chunk: ChunkNo| -> Result<Vec<BlockNo>> {
        if !lease_for_commit(store, chunk, leased)? {
            return Ok(Vec::new());
        }
        store.provide_tables(chunk)?;
        free_of(store, chunk.blocks(), but)
    };
    let mut empty = Vec::new();
    for chunk in store.layout.data_chunks() {
        if store.lease_owner(chunk)?.is_some() {
            continue;
        }
        let taken = store.fill(chunk)?.taken();
        if taken == 0 && empty.len() < EMPTY_TRIES {
            empty.push(chunk);
        } else if taken > 0 && taken < CHUNK_BLOCKS {
            let free = take(chunk)?;
            if !free.is_empty() {
                return Ok(free);
            }
        }
    }
    let spare = spare_blocks(store, but)?;
    if spare.is_empty() {
        for chunk in empty {
            let free = take(chunk)?;
            if !free.is_empty() {
                return Ok(free);
            }
        }
    }
    Ok(spare)
}

/// The changes that a commit makes to the catalog.
#[derive(Debug, Default)]
pub(crate) struct CatalogEdit {
    /// Slots with their new inode, or none.
    pub(crate) slots: Vec<(u32, Option<BlockNo>)>,
    /// By how many the named snapshots grow.
    pub(crate) snapshots_change: i32,
    /// By how many the orphans grow.
    pub(crate) orphans_change: i32,
    /// True when the commit uses up an id.
    pub(crate) takes_id: bool,
}

/// A commit that is being made.
pub(crate) struct Commit<'l, 'p> {
    pub(crate) lock: &'l mut CatalogLock<'p>,
    source: BlockSource,
    generation: u64,
    refs: RefChanges,
    written: Vec<BlockNo>,
    /// The oldest format version that can keep what was written.
    version: u32,
    switched: bool,
}

impl<'l, 'p> Commit<'l, 'p> {
    pub(crate) fn begin(
        lock: &'l mut CatalogLock<'p>,
        source: BlockSource,
    ) -> Result<Commit<'l, 'p>> {
        let generation = lock.current()?.generation() + 1;
        lock.store().region.store_u32(DIRTY_OFFSET, DIRTY)?;
        fault_point(FaultPoint::CommitDirty);
        Ok(Commit {
            lock,
            source,
            generation,
            refs: RefChanges::default(),
            written: Vec::new(),
            version: FORMAT_VERSION_MIN,
            switched: false,
        })
    }

    /// Has the pool be of this format version at least.
    pub(crate) fn needs_version(&mut self, version: u32) {
        self.version = self.version.max(version);
    }

    /// The blocks of metadata written so far.
    pub(crate) fn written(&self) -> &[BlockNo] {
        &self.written
    }

    /// Number of data blocks that lose their last reference, once the commit is settled.
    pub(crate) fn blocks_gained(&self) -> u64 {
        let layout = &self.lock.store().layout;
        let in_data = |blocks: &[BlockNo]| {
            blocks
                .iter()
                .filter(|block| layout.is_data_chunk(block.chunk()))
                .count()
        };
        in_data(self.refs.freed()).saturating_sub(in_data(&self.written)) as u64
    }

    /// Chunks all of whose blocks become free by it.
    pub(crate) fn freed_chunks(&self) -> Vec<ChunkNo> {
        let freed = self.refs.freed_sorted(|_| false);
        let by_chunk = freed.chunk_by(|left, right| left.chunk() == right.chunk());
        by_chunk
            .filter(|blocks| blocks.len() == CHUNK_BLOCKS as usize)
            .map(|blocks| blocks[0].chunk())
            .collect()
    }

    fn fresh_block(&mut self) -> Result<BlockNo> {
        let block = self.source.take(self.lock.store())?;
        self.written.push(block);
        Ok(block)
    }

    fn put(&mut self, block: BlockNo, bytes: &[u8]) -> Result<()> {
        self.lock.store().clear_digests_durably(&[block])?;
        self.lock.store().write_block(block, bytes)?;
        self.lock.pool.writes.wrote(bytes.len());
        self.lock
            .store()
            .region
            .flush(block.byte_offset(), BLOCK_SIZE_BYTES)
    }

    fn refer_to(&mut self, entry: Entry) {
        match entry {
            Entry::Hole => {}
            Entry::Chunk(chunk) => self.refs.add_frames(Frames::Chunk(chunk)),
            Entry::Node { block, .. } => self.refs.add(block),
        }
    }

    /// Writes a state blob.
    pub(crate) fn put_state(&mut self, state: &[u8]) -> Result<Vec<BlockNo>> {
        let mut blocks = Vec::new();
        for piece in state.chunks(BLOCK_SIZE_BYTES as usize) {
            let block = self.fresh_block()?;
            self.put(block, piece)?;
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Writes an inode, which refers to its maps and its state from now on.
    pub(crate) fn put_inode(&mut self, slot: u32, inode: &Inode) -> Result<BlockNo> {
        let block = self.fresh_block()?;
        if inode.needs_version_6() {
            self.needs_version(6);
        }
        let raw = inode.seal(slot, block, self.generation)?;
        self.put(block, raw.as_bytes())?;
        inode.maps.iter().for_each(|map| self.refer_to(map.root));
        inode
            .state_blocks
            .iter()
            .for_each(|block| self.refs.add(*block));
        Ok(block)
    }

    /// Writes the new catalog and makes all new metadata durable. Nothing is visible yet.
    pub(crate) fn prepare(&mut self, edit: &CatalogEdit) -> Result<SuperblockV2> {
        let store = self.lock.store();
        let place = NodePlace::root(NodeKind::Catalog, CATALOG_HEIGHT);
        let mut superblock = self.lock.current()?.superblock.clone();
        let old_root = superblock.catalog_root(&store.layout)?;
        let mut leaves: BTreeMap<ChunkIndex, LeafBlocks> = BTreeMap::new();
        for (slot, inode) in &edit.slots {
            let leaf = ChunkIndex::new(slot / CHUNK_BLOCKS);
            let blocks = match leaves.entry(leaf) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(tree::lookup(store, old_root, place, leaf)?.to_leaf())
                }
            };
            blocks.set(FrameIndex::new(*slot), *inode);
        }
        let changes: Vec<(ChunkIndex, ChunkMap)> = leaves
            .into_iter()
            .map(|(leaf, blocks)| (leaf, ChunkMap::Frames(blocks.into())))
            .collect();
        let root = tree::update(self, old_root, place, &changes)?.root;
        self.refer_to(root);
        self.refs.drop_tree(store, old_root, place)?;
        superblock.generation = self.generation.into();
        // A program that does not know what was written must not open the pool from now on.
        superblock.version = superblock.version.get().max(self.version).into();
        superblock.catalog_root = root.to_raw().into();
        superblock.snapshots = superblock
            .snapshots
            .get()
            .saturating_add_signed(edit.snapshots_change)
            .into();
        superblock.orphans = superblock
            .orphans
            .get()
            .saturating_add_signed(edit.orphans_change)
            .into();
        superblock.next_snapshot_id =
            (superblock.next_snapshot_id.get() + u64::from(edit.takes_id)).into();
        fault_point(FaultPoint::CommitPrepared);
        store.region.fence()?;
        fault_point(FaultPoint::CommitDurable);
        Ok(superblock)
    }

    /// Makes the new catalog the committed one. After an error it is not.
    pub(crate) fn switch(&mut self, superblock: SuperblockV2) -> Result<()> {
        let store = self.lock.store();
        let slot = 1 - self.lock.current()?.slot;
        let offset = slot_offset(slot);
        let mut before = [0; BLOCK_SIZE_BYTES as usize];
        store.region.read(offset, &mut before)?;
        let durable = |bytes: &[u8]| {
            store.region.write(offset, bytes)?;
            self.lock.pool.writes.wrote(bytes.len());
            fault_point(FaultPoint::CommitSuperblockWritten);
            store.region.flush(offset, BLOCK_SIZE_BYTES)?;
            store.region.fence()
        };
        if let Err(error) = durable(&superblock.seal()) {
            // Other processes see the new superblock already: write the old one again.
            durable(&before).or_else(|_| store.region.write(offset, &before))?;
            return Err(error);
        }
        self.switched = true;
        self.lock.pool.writes.committed();
        fault_point(FaultPoint::CommitSwitched);
        self.lock.set_current(Current {
            superblock,
            slot,
            other_fault: None,
        });
        let noted = note_completed(&*store.region, self.generation);
        if let Err(error) = noted {
            tracing::error!(%error, "could not note that a commit is complete");
        }
        fault_point(FaultPoint::CommitNoted);
        Ok(())
    }

    /// Brings the counts up to the committed catalog. Freed blocks wait to be cleaned, but those
    /// that are `kept`: these are the holder's own by now.
    ///
    /// The commit is done already, so nothing here is an error to the caller: what fails, and only
    /// a damaged pool can make it, leaves the dirty word for the next user of the lock.
    pub(crate) fn settle(mut self, kept: impl Fn(BlockNo) -> bool) {
        let store = self.lock.store();
        // Zeroes before the count says free: spare blocks, and in a pool of an old version all.
        let is_zeroed_now =
            |block: BlockNo| !store.cleans_later || !store.layout.is_data_chunk(block.chunk());
        let left = |block: BlockNo| kept(block) || !is_zeroed_now(block);
        let settled = store
            .punch_sorted(&self.refs.freed_sorted(left))
            .inspect(|()| fault_point(FaultPoint::CommitZeroed))
            .and_then(|()| self.refs.apply(store, &kept))
            .and_then(|()| self.source.end(store))
            .inspect(|()| fault_point(FaultPoint::CommitCounted))
            .and_then(|()| store.region.store_u32(DIRTY_OFFSET, 0))
            .inspect(|()| fault_point(FaultPoint::CommitSettled));
        if let Err(error) = settled {
            tracing::error!(%error, "could not settle the counts of a commit");
        }
    }

    /// Gives back what an unfinished commit has written.
    fn undo(&mut self) -> Result<()> {
        let store = self.lock.store();
        self.written.sort_unstable();
        match &self.source {
            _ if !store.cleans_later => store.punch_sorted(&self.written)?,
            // They are the holder's own, who cleans them when it frees them.
            BlockSource::Reserved(_) => {}
            BlockSource::Unleased { .. } => {
                for blocks in by_chunk(&self.written) {
                    let chunk = blocks[0].chunk();
                    if store.layout.is_data_chunk(chunk) {
                        let mut places = FrameSet::EMPTY;
                        for block in blocks {
                            places.insert(block.index_in_chunk());
                        }
                        store.let_wait(chunk, &places)?;
                    } else {
                        store.punch_sorted(blocks)?;
                    }
                }
            }
        }
        self.source.end(store)?;
        store.region.store_u32(DIRTY_OFFSET, 0)
    }
}

impl TreeWriter for Commit<'_, '_> {
    fn store(&self) -> &BlockStore {
        self.lock.store()
    }

    fn write_node(&mut self, node: &Node, place: NodePlace) -> Result<Entry> {
        let block = self.fresh_block()?;
        let (raw, crc24) = seal_node(
            node,
            place.kind,
            place.level,
            place.first_index,
            block,
            self.generation,
        );
        self.put(block, raw.as_bytes())?;
        match node {
            Node::Leaf(blocks) => self.refs.add_frames(Frames::Leaf(blocks)),
            Node::Inner(entries) => entries.iter().for_each(|entry| self.refer_to(*entry)),
        }
        Ok(Entry::Node { block, crc24 })
    }
}

impl Drop for Commit<'_, '_> {
    /// Undoes a commit that did not get as far as its switch.
    fn drop(&mut self) {
        if self.switched {
            return;
        }
        let undone = self.undo();
        if let Err(error) = undone {
            tracing::error!(
                %error,
                "could not undo an unfinished commit: the next user of the pool does it"
            );
        }
    }
}

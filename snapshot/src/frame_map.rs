//! A file's map, read chunk by chunk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::layout::inode::{FileMap, Inode, MapKind};
use crate::layout::node::{Entry, INNER_ENTRIES, Node, leaves_covered};
use crate::number::{BlockNo, ChunkIndex, SnapshotId};
use crate::tree::{NodePlace, leaf_map};

/// One of a snapshot's maps: the blocks that hold its memory, read from the pool as they are asked
/// for. Safe to use as long as a holder pins the snapshot.
pub struct FrameMap {
    pool: Arc<Pool>,
    id: SnapshotId,
    map: Box<FileMap>,
    inner: Mutex<HashMap<BlockNo, Arc<[Entry; INNER_ENTRIES]>>>,
}

impl FrameMap {
    /// One of the maps of a snapshot.
    pub(crate) fn new(pool: &Arc<Pool>, id: SnapshotId, map: &FileMap) -> FrameMap {
        FrameMap {
            pool: Arc::clone(pool),
            id,
            map: Box::new(*map),
            inner: Mutex::default(),
        }
    }

    /// The map of a snapshot's memory.
    pub(crate) fn of_memory(pool: &Arc<Pool>, inode: &Inode) -> Result<FrameMap> {
        Ok(FrameMap::new(pool, inode.id, inode.memory()?))
    }

    /// The snapshot.
    pub fn snapshot(&self) -> SnapshotId {
        self.id
    }

    /// The kind of what is mapped.
    pub fn kind(&self) -> MapKind {
        self.map.kind
    }

    /// Chunks of what is mapped, holes included.
    pub fn chunks_total(&self) -> u32 {
        self.map.chunks_total()
    }

    /// The blocks of a chunk.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] for a chunk behind the memory's end, [`Error::Damaged`].
    pub fn chunk(&self, index: impl Into<ChunkIndex>) -> Result<ChunkMap> {
        let index = index.into();
        if index.get() >= self.chunks_total() {
            return Err(Error::invalid(format!(
                "chunk {index} is behind the {} chunks of the {}",
                self.chunks_total(),
                self.kind()
            )));
        }
        let (mut entry, mut place) = (self.map.root, NodePlace::root_of(&self.map));
        while place.level > 0 {
            let Entry::Node { block, crc24 } = entry else {
                return Ok(ChunkMap::Hole);
            };
            let child = place.child_of(index);
            entry = self.inner_node(block, crc24, place)?[child];
            place = place.child(child);
        }
        leaf_map(&self.pool.store, entry, place)
    }

    /// The chunks that have blocks, with their index, in order. Holes of any size cost nothing.
    pub fn iter_present(&self) -> impl Iterator<Item = Result<(ChunkIndex, ChunkMap)>> + '_ {
        self.iter_present_from(ChunkIndex::FIRST)
    }

    /// The same, from the chunk of this index on. What is before it is not read.
    pub fn iter_present_from(
        &self,
        index: impl Into<ChunkIndex>,
    ) -> impl Iterator<Item = Result<(ChunkIndex, ChunkMap)>> + '_ {
        Present {
            map: self,
            from: u64::from(index.into().get()),
            left: vec![(self.map.root, NodePlace::root_of(&self.map))],
        }
    }

    fn inner_node(
        &self,
        block: BlockNo,
        crc24: u32,
        place: NodePlace,
    ) -> Result<Arc<[Entry; INNER_ENTRIES]>> {
        let known = |map: &Mutex<HashMap<_, Arc<_>>>| {
            map.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&block)
                .map(Arc::clone)
        };
        if let Some(entries) = known(&self.inner) {
            return Ok(entries);
        }
        let Node::Inner(entries) = self.pool.store.node(block, &place.expect(crc24))? else {
            return Err(Error::damaged(format!(
                "{block} is a leaf in an inner node's place"
            )));
        };
        let entries: Arc<[Entry; INNER_ENTRIES]> = Arc::from(entries);
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(block, Arc::clone(&entries));
        Ok(entries)
    }
}

impl std::fmt::Debug for FrameMap {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("FrameMap")
            .field("id", &self.id)
            .field("kind", &self.kind())
            .field("chunks", &self.chunks_total())
            .finish_non_exhaustive()
    }
}

/// Walks a map in order. `left` is what is still to be visited, the next at the end.
struct Present<'m> {
    map: &'m FrameMap,
    from: u64,
    left: Vec<(Entry, NodePlace)>,
}

impl Iterator for Present<'_> {
    type Item = Result<(ChunkIndex, ChunkMap)>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((entry, place)) = self.left.pop() {
            match entry {
                Entry::Hole => {}
                _ if place
                    .first_index
                    .saturating_add(leaves_covered(place.level))
                    <= self.from => {}
                Entry::Node { block, crc24 } if place.level > 0 => {
                    match self.map.inner_node(block, crc24, place) {
                        Ok(entries) => {
                            let children = entries.iter().enumerate().rev();
                            let present = children.filter(|(_, entry)| **entry != Entry::Hole);
                            self.left
                                .extend(present.map(|(index, entry)| (*entry, place.child(index))));
                        }
                        Err(error) => {
                            self.left.clear();
                            return Some(Err(error));
                        }
                    }
                }
                _ => {
                    let index = ChunkIndex::new(place.first_index as u32);
                    return Some(
                        leaf_map(&self.map.pool.store, entry, place).map(|chunk| (index, chunk)),
                    );
                }
            }
        }
        None
    }
}

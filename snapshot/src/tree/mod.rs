//! The persistent radix trees that frame maps and the catalog are.
//!
//! A tree is never changed: an update writes new nodes along the changed paths and refers to all
//! that stays.

mod update;
mod walk;

pub(crate) use update::{TreeWriter, update};
pub(crate) use walk::{Frames, Role, Visitor, walk, walk_maps};

use std::sync::Arc;

use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::layout::inode::FileMap;
use crate::layout::node::{Entry, Expected, INNER_ENTRIES, Node, NodeKind, leaves_covered};
use crate::number::ChunkIndex;
use crate::store::BlockStore;

/// A place in a tree: what an entry there refers to has this level, and covers leaves from this
/// index on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodePlace {
    pub(crate) kind: NodeKind,
    pub(crate) level: u32,
    pub(crate) first_index: u64,
}

impl NodePlace {
    /// The place of a tree's root.
    pub(crate) fn root(kind: NodeKind, height: u32) -> NodePlace {
        NodePlace {
            kind,
            level: height,
            first_index: 0,
        }
    }

    /// The place of the root of a file's map.
    pub(crate) fn root_of(map: &FileMap) -> NodePlace {
        NodePlace::root(NodeKind::Memory, map.height())
    }

    /// The place of a node's entry.
    pub(crate) fn child(&self, index: usize) -> NodePlace {
        let level = self.level.saturating_sub(1);
        let first_index = self.first_index + index as u64 * leaves_covered(level);
        NodePlace {
            kind: self.kind,
            level,
            first_index,
        }
    }

    /// The index of the node's entry that covers this leaf.
    pub(crate) fn child_of(&self, leaf: ChunkIndex) -> usize {
        let leaf = u64::from(leaf.get());
        (leaf.saturating_sub(self.first_index) / leaves_covered(self.level.saturating_sub(1)))
            as usize
            % INNER_ENTRIES
    }

    pub(crate) fn expect(&self, crc24: u32) -> Expected {
        Expected {
            kind: self.kind,
            level: self.level,
            first_index: self.first_index,
            crc24,
        }
    }
}

/// Reads a leaf of a tree. A leaf covers a chunk of what a map is of, or 512 slots of the catalog.
pub(crate) fn lookup(
    store: &BlockStore,
    root: Entry,
    root_place: NodePlace,
    leaf: ChunkIndex,
) -> Result<ChunkMap> {
    let (mut entry, mut place) = (root, root_place);
    loop {
        let Entry::Node { block, crc24 } = entry else {
            return leaf_map(store, entry, place);
        };
        match store.node(block, &place.expect(crc24))? {
            Node::Leaf(blocks) => return Ok(ChunkMap::Frames(Arc::from(blocks))),
            Node::Inner(entries) => {
                let index = place.child_of(leaf);
                entry = entries[index];
                place = place.child(index);
            }
        }
    }
}

/// Reads what an entry refers to that stands where a leaf may be.
pub(crate) fn leaf_map(store: &BlockStore, entry: Entry, place: NodePlace) -> Result<ChunkMap> {
    match entry {
        Entry::Hole => Ok(ChunkMap::Hole),
        Entry::Chunk(chunk) => Ok(ChunkMap::Whole(chunk)),
        Entry::Node { block, crc24 } => match store.node(block, &place.expect(crc24))? {
            Node::Leaf(blocks) => Ok(ChunkMap::Frames(Arc::from(blocks))),
            Node::Inner(_) => Err(Error::damaged(format!(
                "{block} is an inner node in a leaf's place"
            ))),
        },
    }
}

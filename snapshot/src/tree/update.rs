//! Path copying.

use super::{NodePlace, leaf_map};
use crate::chunk_map::{ChunkMap, LeafBlocks};
use crate::error::{Error, Result};
use crate::layout::node::{Entry, INNER_ENTRIES, Node, NodeKind};
use crate::number::ChunkIndex;
use crate::store::BlockStore;

/// The destination of the nodes of an update.
pub(crate) trait TreeWriter {
    fn store(&self) -> &BlockStore;

    /// Writes a node to a fresh block, and notes that it refers to what it refers to.
    fn write_node(&mut self, node: &Node, place: NodePlace) -> Result<Entry>;
}

/// The result of an update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Updated {
    /// The new root.
    pub(crate) root: Entry,
    /// By how many the leaves' entries in use grew.
    pub(crate) entries_change: i64,
}

/// The tree with some leaves replaced. `changes` must be sorted by index, without duplicates, and
/// inside of the tree.
pub(crate) fn update(
    writer: &mut dyn TreeWriter,
    root: Entry,
    place: NodePlace,
    changes: &[(ChunkIndex, ChunkMap)],
) -> Result<Updated> {
    let mut entries_change = 0;
    let root = replace(writer, root, place, changes, &mut entries_change)?;
    Ok(Updated {
        root,
        entries_change,
    })
}

fn replace(
    writer: &mut dyn TreeWriter,
    old: Entry,
    place: NodePlace,
    changes: &[(ChunkIndex, ChunkMap)],
    entries_change: &mut i64,
) -> Result<Entry> {
    let Some((_, first)) = changes.first() else {
        return Ok(old);
    };
    if place.level == 0 {
        return replace_leaf(writer, old, place, first, entries_change);
    }
    let mut entries = match old {
        Entry::Hole => Box::new([Entry::Hole; INNER_ENTRIES]),
        Entry::Chunk(_) => return Err(Error::damaged("a chunk in an inner node's place")),
        Entry::Node { block, crc24 } => match writer.store().node(block, &place.expect(crc24))? {
            Node::Inner(entries) => entries,
            Node::Leaf(_) => {
                return Err(Error::damaged(format!(
                    "{block} is a leaf in an inner node's place"
                )));
            }
        },
    };
    let before = entries.clone();
    let mut rest = changes;
    while let Some((leaf, _)) = rest.first() {
        let index = place.child_of(*leaf);
        let here = rest
            .iter()
            .take_while(|(leaf, _)| place.child_of(*leaf) == index)
            .count();
        entries[index] = replace(
            writer,
            entries[index],
            place.child(index),
            &rest[..here],
            entries_change,
        )?;
        rest = &rest[here..];
    }
    if entries == before {
        return Ok(old);
    }
    if entries.iter().all(|entry| *entry == Entry::Hole) {
        return Ok(Entry::Hole);
    }
    writer.write_node(&Node::Inner(entries), place)
}

fn replace_leaf(
    writer: &mut dyn TreeWriter,
    old: Entry,
    place: NodePlace,
    change: &ChunkMap,
    entries_change: &mut i64,
) -> Result<Entry> {
    let before = leaf_map(writer.store(), old, place)?;
    // The catalog's leaves hold inodes: 512 of them in a row are no chunk of memory.
    let change = if place.kind == NodeKind::Memory || change.count() == 0 {
        change.simplified()
    } else {
        change.clone()
    };
    if before == change {
        return Ok(old);
    }
    *entries_change += i64::from(change.count()) - i64::from(before.count());
    match change {
        ChunkMap::Hole => Ok(Entry::Hole),
        ChunkMap::Whole(chunk) => Ok(Entry::Chunk(chunk)),
        ChunkMap::Frames(blocks) => {
            writer.write_node(&Node::Leaf(Box::new(LeafBlocks::clone(&blocks))), place)
        }
    }
}

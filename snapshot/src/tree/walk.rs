//! Visiting all that a tree refers to.

use super::NodePlace;
use crate::chunk_map::LeafBlocks;
use crate::error::{Error, Result};
use crate::head_log;
use crate::layout::inode::Inode;
use crate::layout::node::{Entry, Expected, Node, NodeKind};
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo};
use crate::store::BlockStore;

/// References to blocks that hold memory, or, in a leaf of the catalog, inodes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Frames<'n> {
    /// All blocks of a chunk, once each.
    Chunk(ChunkNo),
    /// The entries of a leaf.
    Leaf(&'n LeafBlocks),
}

/// The role of a block of metadata, by a reference to it. All references to a block of a good pool
/// agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A part of a saved state.
    State,
    /// A part of a log of a disk's head.
    Log,
    /// The inode of a slot.
    Inode { slot: u32 },
    /// A node of a tree.
    Node(Expected),
}

impl std::fmt::Display for Role {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::State => out.write_str("a part of a saved state"),
            Role::Log => out.write_str("a part of a log of a disk"),
            Role::Inode { slot } => write!(out, "the inode of slot {slot}"),
            Role::Node(_) => out.write_str("a node"),
        }
    }
}

/// The actions of a walk at each reference.
pub(crate) trait Visitor {
    /// Tells the role of the block of the next reference.
    fn role(&mut self, _block: BlockNo, _role: Role) {}

    /// References to frames of memory.
    fn frames(&mut self, frames: Frames<'_>) -> Result<()>;

    /// A reference to a block of metadata. True when the walk shall go on into what the block
    /// itself refers to.
    fn reference(&mut self, block: BlockNo) -> Result<bool>;

    /// An inode that was gone into, before its own references are visited.
    fn inode(&mut self, _slot: u32, _inode: &Inode) -> Result<()> {
        Ok(())
    }

    /// A node that was gone into.
    fn node(&mut self) {}

    /// Something in the tree cannot be read. An error ends the walk.
    fn damage(&mut self, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Visits every reference below an entry, in order.
pub(crate) fn walk(
    store: &BlockStore,
    entry: Entry,
    place: NodePlace,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    match entry {
        Entry::Hole => Ok(()),
        Entry::Chunk(chunk) => visitor.frames(Frames::Chunk(chunk)),
        Entry::Node { block, crc24 } => {
            let expected = place.expect(crc24);
            visitor.role(block, Role::Node(expected));
            if !visitor.reference(block)? {
                return Ok(());
            }
            match store.node(block, &expected) {
                Ok(node) => {
                    visitor.node();
                    walk_node(store, &node, place, visitor)
                }
                Err(error) => visitor.damage(error),
            }
        }
    }
}

fn walk_node(
    store: &BlockStore,
    node: &Node,
    place: NodePlace,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    match node {
        Node::Inner(entries) => entries
            .iter()
            .enumerate()
            .try_for_each(|(index, entry)| walk(store, *entry, place.child(index), visitor)),
        Node::Leaf(blocks) if place.kind == NodeKind::Memory => {
            visitor.frames(Frames::Leaf(blocks))
        }
        Node::Leaf(blocks) => {
            for (index, block) in blocks.iter_present() {
                let slot = (place.first_index as u32)
                    .saturating_mul(CHUNK_BLOCKS)
                    .saturating_add(index.get());
                visitor.role(block, Role::Inode { slot });
                if visitor.reference(block)? {
                    walk_inode(store, block, slot, visitor)?;
                }
            }
            Ok(())
        }
    }
}

fn walk_inode(
    store: &BlockStore,
    block: BlockNo,
    slot: u32,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let inode = match store.inode(block, slot) {
        Ok(inode) => inode,
        Err(error) => return visitor.damage(error),
    };
    visitor.inode(slot, &inode)?;
    for block in &inode.state_blocks {
        visitor.role(*block, Role::State);
        visitor.reference(*block)?;
    }
    walk_log(store, &inode, visitor)?;
    walk_maps(store, &inode, visitor)
}

/// Visits the blocks of the log of a disk's head, and what it refers to, if that counts.
fn walk_log(store: &BlockStore, inode: &Inode, visitor: &mut dyn Visitor) -> Result<()> {
    let Some(head) = inode.head() else {
        return Ok(());
    };
    for block in &head.log {
        visitor.role(*block, Role::Log);
        visitor.reference(*block)?;
    }
    if store.is_held(head)? {
        return Ok(());
    }
    match head_log::replay(store, head, inode.disk_map()?.size_bytes()) {
        Ok(log) => {
            let mut chunks = log.overlay.iter();
            chunks.try_for_each(|(_, chunk)| visitor.frames(Frames::Leaf(chunk.blocks())))
        }
        Err(error) => {
            let name = &inode.name;
            visitor.damage(Error::damaged(format!("disk '{name}': {error}")))
        }
    }
}

/// Visits every reference of a file's maps, one map after the other.
pub(crate) fn walk_maps(
    store: &BlockStore,
    inode: &Inode,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut maps = inode.maps.iter();
    maps.try_for_each(|map| walk(store, map.root, NodePlace::root_of(map), visitor))
}

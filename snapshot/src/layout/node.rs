//! Nodes of the trees: frame maps and the catalog.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Layout;
use crate::chunk_map::LeafBlocks;
use crate::error::{Error, Result};
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo};

/// The first bytes of every node.
pub(crate) const NODE_MAGIC: [u8; 4] = *b"NVND";
/// Version of the nodes' format.
pub(crate) const NODE_VERSION: u16 = 1;
/// Entries of an inner node.
pub(crate) const INNER_ENTRIES: usize = 256;
/// Entries of a leaf.
pub(crate) const LEAF_ENTRIES: usize = CHUNK_BLOCKS as usize;
/// Inner levels of the tallest tree: 32 TiB.
pub(crate) const HEIGHT_MAX: u32 = 3;

const TAG_HOLE: u64 = 0;
const TAG_CHUNK: u64 = 1;
const TAG_NODE: u64 = 2;

/// The kind of tree that a node belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum NodeKind {
    /// A snapshot's memory: a leaf's entries are the blocks of 512 frames.
    Memory = 1,
    /// The catalog: a leaf's entries are the inodes of 512 slots.
    Catalog = 2,
}

/// A node as it is in its block: the header and the body of either kind.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct NodeV1 {
    pub(crate) magic: [u8; 4],
    pub(crate) kind: u8,
    pub(crate) level: u8,
    pub(crate) version: U16,
    pub(crate) block: U32,
    pub(crate) checksum: U32,
    pub(crate) generation: U64,
    pub(crate) first_index: U64,
    pub(crate) reserved: [u8; 32],
    pub(crate) body: [u8; 2048],
    pub(crate) tail: [u8; 1984],
}

const _: () = assert!(size_of::<NodeV1>() == 4096);
const _: () = assert!(offset_of!(NodeV1, body) == 64);
const _: () = assert!(INNER_ENTRIES * 8 == 2048 && LEAF_ENTRIES * 4 == 2048);

/// An entry of an inner node, by what it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing.
    Hole,
    /// 512 blocks in a row.
    Chunk(ChunkNo),
    /// A node one level below, with the low 24 bits of its checksum.
    Node { block: BlockNo, crc24: u32 },
}

impl Entry {
    /// The entry as it is stored.
    pub(crate) fn to_raw(self) -> u64 {
        match self {
            Entry::Hole => 0,
            Entry::Chunk(chunk) => TAG_CHUNK << 56 | u64::from(chunk.get()),
            Entry::Node { block, crc24 } => {
                TAG_NODE << 56 | u64::from(crc24 & 0xff_ffff) << 32 | u64::from(block.get())
            }
        }
    }

    /// Reads an entry that stands where a node of `level` may be, and checks that the pool can have
    /// it.
    pub(crate) fn from_raw(raw: u64, level: u32, kind: NodeKind, layout: &Layout) -> Result<Entry> {
        let (tag, crc24, number) = (raw >> 56, (raw >> 32 & 0xff_ffff) as u32, raw as u32);
        let entry = match tag {
            TAG_HOLE if raw == 0 => Some(Entry::Hole),
            TAG_CHUNK if level == 0 && kind == NodeKind::Memory && crc24 == 0 => {
                ChunkNo::new(number)
                    .filter(|chunk| layout.is_data_chunk(*chunk))
                    .map(Entry::Chunk)
            }
            TAG_NODE => Some(BlockNo::new(number))
                .filter(|block| layout.is_usable(*block))
                .map(|block| Entry::Node { block, crc24 }),
            _ => None,
        };
        entry.ok_or_else(|| {
            Error::damaged(format!(
                "impossible entry {raw:#018x} of a {kind:?} tree at level {level}"
            ))
        })
    }
}

/// Properties of the node that a parent refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) kind: NodeKind,
    pub(crate) level: u32,
    pub(crate) first_index: u64,
    pub(crate) crc24: u32,
}

/// A node's content.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// Level 0.
    Leaf(Box<LeafBlocks>),
    /// Level 1 and up.
    Inner(Box<[Entry; INNER_ENTRIES]>),
}

/// The bytes of a node, and the 24 bits of its checksum that its parent keeps.
pub(crate) fn seal_node(
    node: &Node,
    kind: NodeKind,
    level: u32,
    first_index: u64,
    block: BlockNo,
    generation: u64,
) -> (NodeV1, u32) {
    let mut raw = NodeV1::new_zeroed();
    raw.magic = NODE_MAGIC;
    raw.kind = kind as u8;
    raw.level = level as u8;
    raw.version = NODE_VERSION.into();
    raw.block = block.get().into();
    raw.generation = generation.into();
    raw.first_index = first_index.into();
    match node {
        Node::Leaf(blocks) => {
            for (place, number) in raw.body.chunks_exact_mut(4).zip(blocks.numbers()) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
        Node::Inner(entries) => {
            for (place, entry) in raw.body.chunks_exact_mut(8).zip(entries.iter()) {
                place.copy_from_slice(&entry.to_raw().to_le_bytes());
            }
        }
    }
    let crc = crc32fast::hash(raw.as_bytes());
    raw.checksum = crc.into();
    (raw, crc & 0xff_ffff)
}

/// Verifies and decodes a node that was read from `block`.
pub(crate) fn open_node(
    raw: &mut NodeV1,
    block: BlockNo,
    expected: &Expected,
    layout: &Layout,
) -> Result<Node> {
    let fault = |what: &str| {
        Err(Error::damaged(format!(
            "{block} is not the node its parent refers to: {what}"
        )))
    };
    if raw.magic != NODE_MAGIC {
        return fault("no node magic");
    }
    let checksum = raw.checksum.get();
    raw.checksum = 0.into();
    if crc32fast::hash(raw.as_bytes()) != checksum {
        return fault("wrong checksum");
    }
    if checksum & 0xff_ffff != expected.crc24 {
        return fault("another checksum than the parent says");
    }
    if raw.version != NODE_VERSION {
        return fault("unknown version");
    }
    if raw.block != block.get() {
        return fault("it carries another block's number");
    }
    if raw.kind != expected.kind as u8 || u32::from(raw.level) != expected.level {
        return fault("another kind or level");
    }
    if raw.first_index != expected.first_index {
        return fault("it covers another range");
    }
    if expected.level == 0 {
        open_leaf(raw, layout)
    } else {
        open_inner(raw, expected, layout)
    }
}

fn open_leaf(raw: &NodeV1, layout: &Layout) -> Result<Node> {
    let mut blocks = Box::new(LeafBlocks::new());
    // Neighbours are in one chunk as a rule, and of a data chunk all blocks can be used.
    let mut data_chunk = None;
    for (number, place) in blocks
        .numbers_mut()
        .iter_mut()
        .zip(raw.body.chunks_exact(4))
    {
        *number = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
        let block = BlockNo::new(*number);
        if *number == 0 || data_chunk == Some(block.chunk()) {
            continue;
        }
        data_chunk = Some(block.chunk()).filter(|chunk| layout.is_data_chunk(*chunk));
        if data_chunk.is_none() && !layout.is_usable(block) {
            return Err(Error::damaged(format!(
                "the leaf in block {} refers to block {number}",
                raw.block
            )));
        }
    }
    Ok(Node::Leaf(blocks))
}

fn open_inner(raw: &NodeV1, expected: &Expected, layout: &Layout) -> Result<Node> {
    let mut entries = Box::new([Entry::Hole; INNER_ENTRIES]);
    for (entry, place) in entries.iter_mut().zip(raw.body.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(place);
        *entry = Entry::from_raw(
            u64::from_le_bytes(word),
            expected.level - 1,
            expected.kind,
            layout,
        )?;
    }
    Ok(Node::Inner(entries))
}

/// Number of leaves that a node of this level covers.
pub(crate) const fn leaves_covered(level: u32) -> u64 {
    (INNER_ENTRIES as u64).pow(level)
}

/// Inner levels of a tree of this many leaves; none when no tree is that tall.
pub(crate) fn height_for(leaves: u64) -> Option<u32> {
    (0..=HEIGHT_MAX).find(|height| leaves_covered(*height) >= leaves)
}

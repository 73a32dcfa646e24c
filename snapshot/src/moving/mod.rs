//! Moving snapshots between pools: out of one as a [stream](crate::stream), and into another.

mod any_order;
mod base;
mod content;
mod landing;
mod receive;
mod receiver;
mod room;
mod root;
mod send;
mod whole;

pub use landing::Landing;
pub use receive::{ReceiveOptions, ReceiveReport};
pub use send::{SendOptions, SendReport};
pub use whole::{ChunkVisitor, WholeChunk, WholeContent};

/// Progress of a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// Bytes of the snapshot's memory that are done, holes included.
    pub bytes_done: u64,
    /// Size of that memory.
    pub bytes_total: u64,
}

//! Moving snapshots between pools: out of one as a [stream](crate::stream), and into another.

mod content;
mod landing;
mod receive;
mod send;

pub use receive::ReceiveReport;
pub use send::{SendOptions, SendReport};

/// How far a snapshot is moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// How much of the snapshot's memory has been gone through, holes included.
    pub bytes_done: u64,
    /// Size of that memory.
    pub bytes_total: u64,
}

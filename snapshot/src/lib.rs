//! The pool: a block file system in persistent or shared memory, whose snapshots refer to blocks by
//! reference.
//!
//! A [`Pool`] is a file of 4 KiB blocks in chunks of 2 MiB. Virtual machines are its [`Holder`]s:
//! they take blocks from chunks that are leased to them, and commit snapshots that refer to those
//! blocks ([`Holder::commit_snapshot`]). A snapshot is a [`FrameMap`] from guest frames to blocks
//! and the machine's saved state; committed blocks never change and never move. Any number of
//! processes use one pool without a daemon: locks that the kernel drops when a process
//! dies tell who lives, and whoever comes next takes back what the dead left.
//!
//! docs/formats/pool.md describes every byte. Nothing here knows of virtual machines beyond the
//! words.

mod catalog;
mod chunk_map;
mod diff;
mod error;
mod fault;
mod file_lock;
mod frame_map;
mod holder;
mod identity;
mod layout;
mod moving;
mod name;
mod number;
mod pool;
mod reader;
mod recovery;
mod refs;
mod region;
mod scrub;
mod store;
pub mod stream;
mod tree;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod documented;
#[cfg(test)]
mod test_snapshot;

pub use catalog::{PoolWrites, Removed};
pub use chunk_map::{ChunkMap, LeafBlocks};
pub use diff::{DiffProgress, DiffReport, FrameRun};
pub use error::{Error, Result};
pub use fault::{FaultPoint, fault_point};
pub use frame_map::FrameMap;
pub use holder::{
    Committed, Consumed, ConsumedChunk, ConsumedMap, Holder, NewMap, NewSnapshot, Reservation,
    Vacating,
};
pub use identity::Identity;
pub use layout::inode::{MapKind, SnapshotKind};
pub use moving::{MoveProgress, ReceiveReport, SendOptions, SendReport};
pub use number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, ChunkNo, FrameIndex,
    FrameSet, SnapshotId,
};
pub use pool::{
    CheckReport, ChunkUse, CreateOptions, GrowOptions, Grown, HolderStatus, InodePlace, MapEntry,
    MapInside, Pool, PoolInside, PoolMap, PoolStatus, Reference, SegmentInside, SnapshotEntry,
    SnapshotInside, SnapshotSpace, SuperblockInside,
};
pub use reader::SnapshotReader;
pub use region::{EngineKind, Durability, DurabilityLimit, Medium};
pub use scrub::{DamagedFrame, ScrubProgress, ScrubReport};

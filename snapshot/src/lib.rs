//! The pool: a block file system in persistent or shared memory, whose snapshots refer to blocks by
//! reference.
//!
//! A [`Pool`] is a file of 4 KiB blocks in chunks of 2 MiB. Virtual machines are its [`Holder`]s:
//! they take blocks from chunks that are leased to them, and commit snapshots that refer to those
//! blocks ([`Holder::commit_snapshot`]). A snapshot is a list of maps, read as [`FrameMap`]s, and a
//! saved state. Its memory is the first map; [`MapKind`] lists the kinds. Committed blocks never
//! change and never move. Any number of processes use one pool without a daemon. The kernel drops
//! the locks of a process that dies, and the next user of the pool recovers what it left.
//!
//! docs/formats/pool.md describes every byte. Nothing here knows of virtual machines beyond the
//! words.
//!
//! # Layers
//!
//! From bottom to top. A module imports only modules that are listed before it.
//!
//! 1. `fault`: places at which tests have the process die
//! 2. `number`: numbers of blocks, chunks, snapshots; indices in maps
//! 3. `chunk_map`: the blocks of a chunk of a map; `overlay`: changes of a map
//! 4. `durability`: what committed snapshots survive
//! 5. `identity`: the identity of a snapshot in all pools, and the root of its content
//! 6. `clock`: the time of day; `other_process`: state of another process, limit of a wait for it;
//!    `lock_holder`: the process that has the catalog lock; `wording`: numbers in sentences
//! 7. `error`: errors of all that follows
//! 8. `name`: names of snapshots and holders
//! 9. `random`: random bytes and identities
//! 10. `file_lock`: locks that the kernel drops when a process dies; `lock_wait`: waits for them
//! 11. `region`: the bytes of a pool on their medium
//! 12. `layout`: structures on the pool, encoded and decoded
//! 13. `stream`: snapshots as streams of bytes
//! 14. `lock_times`: time under the catalog lock; `waiting_chunks`: chunks with blocks to clean;
//!     `store`: typed access to blocks and tables; `chunk_digests`: digests that a process
//!     remembers; `head_log`: the logs of disks' heads
//! 15. `tree`: persistent trees: maps and the catalog
//! 16. `refs`: reference counts
//! 17. `catalog`: the committed superblock and the inodes
//! 18. `handle`: the handle of an open pool
//! 19. `cleaner_lock`: the right to clean freed blocks; `catalog_lock`: the catalog lock, commits
//!     and removals under it
//! 20. `dead_heads`: logs that dead heads left; `recovery`: what dead processes and hosts left;
//!     every use of the lock begins with it; `cleaning`: freed blocks become free
//! 21. `pool`: create, open, grow, check, list
//! 22. `frame_map`: a map of a snapshot, read chunk by chunk
//! 23. `holder`: leases, pins, commits and consumption of snapshots
//! 24. `reader`: a snapshot read without a pin; `disk`: disks and their heads
//! 25. `diff`: the differences between two snapshots
//! 26. `scrub`: digests of blocks, made and verified
//! 27. `moving`: snapshots sent and received

mod catalog;
mod catalog_lock;
mod chunk_digests;
mod chunk_map;
mod cleaner_lock;
mod cleaning;
mod clock;
mod dead_heads;
mod diff;
mod disk;
mod durability;
mod error;
mod fault;
mod file_lock;
mod frame_map;
mod handle;
mod head_log;
mod holder;
mod identity;
mod layout;
mod lock_holder;
mod lock_times;
mod lock_wait;
mod moving;
mod name;
mod number;
mod other_process;
mod overlay;
mod pool;
mod random;
mod reader;
mod recovery;
mod refs;
mod region;
mod scrub;
mod store;
pub mod stream;
mod tree;
mod waiting_chunks;
mod wording;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod documented;
#[cfg(test)]
mod test_snapshot;

pub use catalog::PoolWrites;
pub use catalog_lock::Removed;
pub use chunk_map::{ChunkMap, LeafBlocks};
pub use diff::{DiffProgress, DiffReport, FrameRun};
pub use disk::{DiskCut, DiskEntry, DiskHead, DiskImport, DiskReader};
pub use durability::{Durability, DurabilityLimit};
pub use error::{Error, Result};
pub use fault::{FaultPoint, Resource, ask_for, fault_point};
pub use frame_map::FrameMap;
pub use handle::Pool;
pub use holder::{
    ChunkForCopy, Committed, Consumed, ConsumedChunk, ConsumedMap, Holder, NewMap, NewSnapshot,
    Reservation, Vacating,
};
pub use identity::{BaseId, ContentRoot, Identity};
pub use layout::inode::{DISKS_MAX, MapKind, SnapshotKind};
pub use lock_holder::LockHolder;
pub use lock_times::LockUse;
pub use lock_wait::{LockWait, wait_for_locks_at_most};
pub use moving::{
    ChunkVisitor, Landing, MoveProgress, ReceiveOptions, ReceiveReport, SendOptions, SendReport,
    WholeChunk, WholeContent,
};
pub use name::{DiskName, check_name, near_names};
pub use number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, ChunkNo, FrameIndex,
    FrameSet, SnapshotId,
};
pub use other_process::{ProcessState, ProcessText, WaitLimit};
pub use pool::{
    CheckReport, ChunkUse, CreateOptions, GrowOptions, Grown, HolderStatus, InodePlace, MapEntry,
    MapInside, PoolInside, PoolMap, PoolStatus, Reference, SegmentInside, SnapshotEntry,
    SnapshotInside, SnapshotSpace, SuperblockInside,
};
pub use random::fill_random;
pub use reader::SnapshotReader;
pub use region::{EngineKind, Medium};
pub use scrub::{DamagedFrame, ScrubProgress, ScrubReport};
pub use wording::{SizeText, TimeText, counted, is_or_are, plural};

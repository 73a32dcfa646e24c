//! The catalog as it is on the pool: which superblock is the committed one, and the inodes that it
//! leads to.

mod current;
mod listing;
mod writes;

use std::sync::Arc;

pub(crate) use current::{Current, note_completed, read_current, read_slot, slot_offset};
pub(crate) use listing::{InodeCache, Listed, Listing};
pub use writes::PoolWrites;
pub(crate) use writes::WriteCounters;

/// The part of the catalog that a process remembers between two uses of the lock.
#[derive(Default)]
pub(crate) struct CatalogMemory {
    pub(crate) current: Option<Current>,
    pub(crate) listing: Option<Arc<Listing>>,
    pub(crate) inodes: InodeCache,
}

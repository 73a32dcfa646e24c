//! Taking a snapshot of a running machine, and what a snapshot holds besides memory.

pub mod blob;
mod cleaner;
mod counters;
mod digests;
mod error;
mod pending;
pub mod report;
mod standstill;
mod take;
mod take_disks;

pub use crate::stats::phases;
pub use cleaner::Cleaner;
pub use counters::SnapshotCounters;
pub use digests::Digests;
pub use error::TakeError;
pub use pending::Pending;
pub use standstill::went_on_at;
pub use take::{Taken, Taking, take};
pub use take_disks::{TakingDisks, take_disks};

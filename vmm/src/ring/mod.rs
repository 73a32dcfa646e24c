//! A ring of checkpoints: a running VM is snapshotted in a steady rhythm and the newest few
//! snapshots are kept, so that it can be taken back to any of them ("rewound").
//!
//! Checkpoints are snapshots like others, with names of their own (`VM@number`): they are
//! committed, can be restored, looked at and removed, and outlive their VM. The commit that adds
//! one removes the oldest.

mod member;
mod own;
mod report;
mod thread;

pub use member::{Member, is_member_name};
pub use own::OwnCheckpoints;
pub use report::{RewindReport, RingStatus};
pub use thread::{Attempt, Ring, RingSettings, TakeCheckpoint};

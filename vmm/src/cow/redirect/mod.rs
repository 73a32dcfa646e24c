//! Copy-on-write by redirect: a snapshot's blocks never move or change; the running VM gets a fresh
//! block at the moment it first writes to a shared one.
//!
//! The engine is made of four parts, each of which owns its state:
//! * `Mapping`: what is mapped at which address, and the budget of mappings;
//! * `Placement`: which block of the pool a frame gets, and how many blocks the VM holds unused;
//! * `Prediction`: which frames the guest is likely to write next;
//! * `Chunks`: what is known of each chunk, and counts over all of them.
//!
//! Every access that needs a decision is held by userfaultfd and answered by the fault thread:
//! * first touch of a chunk: map a fresh chunk, or the blocks of the snapshot that the VM was
//!   restored from;
//! * write to a shared frame: copy a cluster of frames to fresh blocks, map those over it.
//!
//! Where snapshots come quickly, frames that are written after each of them are copied before they
//! are written.
//!
//! Invariants:
//! 1. A frame that is not *own* is either unmapped, or mapped and armed, or mapped privately and
//!    armed later. No writer reaches a snapshot's block.
//! 2. `MAP_FIXED` replaces a mapping in one step for vCPUs, device threads and KVM; addresses never
//!    change.
//! 3. One lock per chunk orders all changes to it. Sharing (a snapshot) excludes all fault
//!    handling.
//! 4. The userfaultfd outlives every thread that can write guest RAM: once it is closed, nothing is
//!    held any more.

mod ahead;
mod chunk;
mod chunks;
mod copy;
mod dense;
mod engine;
mod faults;
mod first_touch;
mod huge;
mod live;
mod mapping;
mod placement;
mod prediction;
mod release;
mod rewind;
mod share;
mod unarmed;
mod vacate;
mod watch;

pub use engine::RedirectEngine;

#[cfg(test)]
mod ahead_test;
#[cfg(test)]
mod chunk_test;
#[cfg(test)]
mod dense_test;
#[cfg(test)]
mod engine_test;
#[cfg(test)]
mod failure_test;
#[cfg(test)]
mod first_touch_test;
#[cfg(test)]
mod hot_test;
#[cfg(test)]
mod huge_test;
#[cfg(test)]
mod placement_test;
#[cfg(test)]
mod rewind_test;
#[cfg(test)]
mod unarmed_test;

//! Copy-on-write by the host's kernel: guest RAM is memory of the VM's own that shows the blocks of
//! a snapshot. The kernel copies a frame when it is first written; what was written is copied to
//! fresh blocks for the next snapshot.
//!
//! For media on which userfaultfd cannot hold writes. Only the first touch of a chunk is held: then
//! the snapshot's blocks are mapped privately, or, where a medium or the budget of mappings does
//! not allow that, their bytes are copied in.
//!
//! KVM's dirty log lists the writes of vCPUs and of KVM itself, [`WrittenFrames`] those of this
//! process. Bits go one way: from there into a chunk's `dirty` set, and out of it when the frame's
//! content is in a block.
//!
//! Invariants, for every frame of a chunk that was touched:
//! 1. What the guest sees is what `map` has for the frame, unless the frame is dirty, or its bit
//!    has not been taken yet.
//! 2. A frame is mapped or filled once, before anybody can have written it, and never again.
//! 3. A block that the guest may be shown is not freed: copies are blocks of their own, and a frame
//!    that gets one is the VM's own memory by then.
//!
//! [`WrittenFrames`]: crate::memory::WrittenFrames

mod chunk;
mod copy;
mod engine;
mod first_touch;
mod release;
mod rewind;
mod share;

pub use engine::PrivateEngine;

#[cfg(test)]
mod engine_test;
#[cfg(test)]
mod failure_test;

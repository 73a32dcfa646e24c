//! The window: a process image shown to the guest as a read-only file system beside its RAM, in the
//! very blocks that the pool has it in.

mod disk;
pub mod erofs;
mod memory;
pub mod place;
mod shown;

pub use disk::disk_memory;
pub use memory::{WindowError, WindowMemory};
pub use shown::ShownBlocks;

#[cfg(test)]
mod test_mount;

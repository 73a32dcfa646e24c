//! Copy-on-write of guest RAM: a snapshot's blocks never move or change, whatever the VM that runs
//! on them writes.
//!
//! The medium decides the engine ([`CowEngine`]):
//! * [`RedirectEngine`]: guest RAM maps the pool's blocks themselves. The first write to a block
//!   that a snapshot has is held until the VM has a fresh block in its place.
//! * [`PrivateEngine`]: guest RAM is memory of the VM's own that shows the blocks of a snapshot;
//!   what was written is copied to fresh blocks for the next one.
//!
//! Accesses that need a decision are held by userfaultfd and answered by the [`FaultThread`].

mod arrival;
mod budget;
mod chunk_table;
mod counters;
mod engine;
mod error;
mod fault_thread;
mod frames;
mod origin;
mod private;
mod redirect;
mod releases;
mod rewind;
mod share_set;
mod shortage;
mod techniques;
mod worker;

pub use arrival::{Arrival, Lacking};
pub use budget::{Budget, CopyPolicy};
pub use engine::{CopiedAhead, CowEngine, Still};
pub use error::{CowError, Lack};
pub use fault_thread::FaultThread;
pub use origin::RamOrigin;
pub use private::PrivateEngine;
pub use redirect::RedirectEngine;
pub use releases::Releases;
pub use rewind::RewindTo;
pub use share_set::ShareSet;
pub use techniques::Techniques;

use crate::sys::{pagemap::Pagemap, uffd::Uffd};

/// Size of a guest frame in bytes: the host's page and the pool's block are of the same size.
pub const FRAME_SIZE_BYTES: usize = 4096;
/// Frames in a 2 MiB chunk.
pub const CHUNK_FRAMES: u32 = nvvmm_snapshot::CHUNK_BLOCKS;
/// Size of a chunk in bytes.
pub const CHUNK_SIZE_BYTES: usize = FRAME_SIZE_BYTES * CHUNK_FRAMES as usize;

const _: () = assert!(CHUNK_SIZE_BYTES as u64 == nvvmm_snapshot::CHUNK_SIZE_BYTES);

/// Opens all that engines of this process need, before it confines itself.
///
/// # Errors
/// The device of userfaultfd, or this process's pagemap, cannot be opened.
pub fn open_ahead() -> Result<(), CowError> {
    budget::max_map_count();
    let os = |op| move |source| CowError::Os { op, source };
    Uffd::keep_device().map_err(os("open /dev/userfaultfd"))?;
    Pagemap::keep().map_err(os("open /proc/self/pagemap"))
}

#[cfg(test)]
mod mount_test;
#[cfg(test)]
mod release_test;
#[cfg(test)]
mod stress_test;
#[cfg(test)]
pub(crate) mod test_guest;

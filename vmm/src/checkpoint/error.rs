//! Reasons why no snapshot was taken.

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, SizeText};

use super::{Pending, blob::BlobError};
use crate::{
    cow::{CowError, Lack},
    machine::MachineError,
};

/// Why no snapshot was taken. The VM is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The pool refused: full, name taken, damaged.
    #[error("{0}")]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The pool has not as many free blocks as a snapshot of this VM may need as long as it runs.
    #[error(
        "the pool is full: up to {} may be needed, {} are free",
        SizeText::needed(u64::from(*needed) * BLOCK_SIZE_BYTES),
        SizeText::left(free.saturating_mul(BLOCK_SIZE_BYTES))
    )]
    NoRoom {
        /// Blocks that it may need at most.
        needed: u32,
        /// Blocks that are neither in a snapshot nor leased to a holder.
        free: u64,
        /// Blocks that it would need at most if the VM were paused now.
        needed_paused: u32,
    },
    /// There is no room for copies of what the guest has written, while it runs.
    #[error("{0}: there is no room for copies of what the guest has written")]
    NoRoomAhead(Lack),
    /// There is no room for copies of what the guest has written before it stood still.
    #[error("{0}: the guest wrote more before the pause than there is room to copy")]
    NoRoomPaused(Lack),
    /// Whoever asked for the snapshot is gone.
    #[error("nobody waits for this snapshot any more")]
    CallerGone,
    /// The machine could not be stopped or saved.
    #[error("{0}")]
    Machine(#[from] MachineError),
    /// Frames could not be armed.
    #[error("{0}")]
    Cow(#[from] CowError),
    /// The state could not be written down.
    #[error("{0}")]
    Blob(#[from] BlobError),
}

/// Error of a snapshot that was withdrawn.
pub(super) fn withdrawn(pending: &Pending) -> TakeError {
    if pending.caller_is_gone() {
        TakeError::CallerGone
    } else {
        CowError::NoSpace(Lack::Blocks).into()
    }
}

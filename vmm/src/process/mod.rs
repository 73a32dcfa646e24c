//! Snapshots and restarts of single processes of a guest, as the VM sees them: its agent (crate
//! `nvvmm-protocol`) says which frames a process has, the VM adds those frames to an image in the
//! pool, or puts an image's blocks behind frames.
//!
//! [`conversation`] is what is said to the agent, [`Capturing`] and [`Placing`] what is done to
//! guest memory. The agent is in the guest and trusted in nothing: whatever it says concerns its
//! own VM's frames and its own image, or is refused.

pub mod conversation;

mod capturing;
mod idle;
mod named;
mod pages;
mod placing;
mod report;
mod saved;

pub use capturing::{Capturing, Kept};
pub use conversation::{AgentError, CaptureSteps, PlaceSteps};
pub use idle::set_idle;
pub use placing::Placing;
pub use report::{CaptureReport, RestartReport};
pub use saved::SavedProcess;

use crate::{checkpoint::blob::BlobError, cow::CowError};

/// Why frames were not taken or placed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The pool refused: full, name taken, too many images in use.
    #[error("{0}")]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The engine refused.
    #[error("{0}")]
    Cow(#[from] CowError),
    /// The image is not one of a process, or too large.
    #[error("{0}")]
    Blob(#[from] BlobError),
    /// The agent names what there is not.
    #[error("the guest's agent names {0}")]
    Lie(String),
    /// Guest memory could not be read or written.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A snapshot of the whole VM was taken meanwhile, or the VM is ending.
    #[error("a snapshot of the whole VM, or its end, came in between")]
    Overtaken,
}

#[cfg(test)]
mod process_test;

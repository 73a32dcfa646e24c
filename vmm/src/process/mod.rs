//! Snapshots and restarts of single processes of a guest, on the side of the VM. The guest's agent
//! (crate `nvvmm-protocol`) names the frames that a process has. The VM adds those frames to an
//! image in the pool, or puts an image's blocks behind frames.
//!
//! [`conversation`] has the messages to the agent, [`Capturing`] and [`Placing`] the changes of
//! guest memory. The agent is in the guest and is not trusted: its messages can concern its own
//! VM's frames and its own image only, or are refused.

pub mod conversation;

mod capturing;
mod idle;
mod named;
mod pages;
mod placing;
mod privileges;
mod report;
mod saved;

pub use capturing::{Capturing, Kept};
pub use conversation::{AgentError, CaptureSteps, PlaceSteps};
pub use idle::set_idle;
pub use placing::Placing;
pub use privileges::first_privilege;
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
    /// The agent names frames or pages that do not exist.
    #[error("the guest's agent names {0}")]
    Invalid(String),
    /// Guest memory could not be read or written.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A snapshot of the whole VM was taken meanwhile, or the VM is ending.
    #[error("ended by a snapshot of the whole VM, or by the end of the VM")]
    Overtaken,
}

#[cfg(test)]
mod conversation_test;
#[cfg(test)]
mod idle_test;
#[cfg(test)]
mod images_test;
#[cfg(test)]
mod saved_test;
#[cfg(test)]
mod test_images;

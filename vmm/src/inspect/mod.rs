//! Inspection of snapshots without a VM: decoded state, memory, and core files.

pub mod core;
pub mod decoded;
mod memory;
#[cfg(test)]
mod test_memory;

pub use memory::Memory;

use self::core::CoreError;
use nvvmm_snapshot::SnapshotId;

use crate::checkpoint::blob::BlobError;
use crate::error::{ErrorKind, VmError};

/// Reason why a snapshot cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The pool: it is damaged, or the snapshot is not there any more.
    #[error(transparent)]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The saved state.
    #[error(transparent)]
    State(#[from] BlobError),
    /// A part cannot be written as JSON, for example a path that is not UTF-8.
    #[error("the state cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The memory's size is one that no VM has.
    #[error("the snapshot is damaged: a memory size of {memory_bytes} B is not possible")]
    Size {
        /// The size.
        memory_bytes: u64,
    },
    /// The snapshot's id is one that no pool gets to.
    #[error("the pool is damaged: it has a snapshot with the id {id}")]
    Id {
        /// The id.
        id: SnapshotId,
    },
}

impl From<InspectError> for VmError {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Pool(error) => error.into(),
            InspectError::State(error) => error.into(),
            InspectError::Json(_) => VmError::failed(error.to_string()),
            InspectError::Size { .. } | InspectError::Id { .. } => {
                VmError::new(ErrorKind::PoolDamaged, error.to_string())
            }
        }
    }
}

impl From<CoreError> for VmError {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Look(error) => error.into(),
            CoreError::NoVm(_) => VmError::new(ErrorKind::Refused, error.to_string()),
            CoreError::Write(error) => VmError::io("write the core", &error),
        }
    }
}

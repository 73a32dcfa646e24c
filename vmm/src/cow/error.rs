//! Errors of the copy-on-write engines.

use std::io;

use nvvmm_snapshot::ChunkIndex;

use crate::sys::uffd::UffdError;

/// Why an access could not be answered, or an operation on guest RAM failed.
#[derive(Debug, thiserror::Error)]
pub enum CowError {
    /// The pool has no block left. The access stays held and may be tried again.
    #[error("the pool is full: a guest write waits for a free block")]
    NoSpace,
    /// Another process has the pool's lock. The access stays held and may be tried again.
    #[error("{0}")]
    Locked(nvvmm_snapshot::Error),
    /// There is no userfaultfd to use.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// A chunk of the snapshot is not one whole chunk of the pool, and the medium can only map
    /// whole chunks.
    #[error(
        "chunk {index} of the snapshot's memory is in pieces, \
         and this medium only maps whole chunks of 2 MiB"
    )]
    NotWhole {
        /// Index of the chunk in guest RAM.
        index: ChunkIndex,
    },
    /// The kernel allows the process fewer mappings than guest RAM may come to need.
    #[error(
        "guest memory may take {needed} mappings, and {limit} are set aside for it: \
         raise vm.max_map_count (sysctl)"
    )]
    TooManyMappings {
        /// One for each chunk.
        needed: u64,
        /// Half of what the kernel allows.
        limit: u64,
    },
    /// The pool refused.
    #[error("pool: {0}")]
    Pool(nvvmm_snapshot::Error),
    /// The kernel refused.
    #[error("guest RAM: cannot {op}: {source}")]
    Os {
        /// The operation that failed.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<nvvmm_snapshot::Error> for CowError {
    fn from(error: nvvmm_snapshot::Error) -> Self {
        if is_full(&error) {
            Self::NoSpace
        } else if matches!(error, nvvmm_snapshot::Error::PoolLocked { .. }) {
            Self::Locked(error)
        } else {
            Self::Pool(error)
        }
    }
}

/// True if the pool, or the medium under it, is full. That is no reason to end a VM: space may be
/// made.
pub(super) fn is_full(error: &nvvmm_snapshot::Error) -> bool {
    use nvvmm_snapshot::Error::{NoSpaceOnMedium, PoolFull};
    matches!(error, PoolFull { .. } | NoSpaceOnMedium { .. })
}

/// Makes a [`CowError`] of the system's answer to `op`.
pub(super) fn os(op: &'static str) -> impl FnOnce(io::Error) -> CowError {
    move |source| match source.raw_os_error() {
        Some(libc::ENOSPC) => CowError::NoSpace,
        _ => CowError::Os { op, source },
    }
}

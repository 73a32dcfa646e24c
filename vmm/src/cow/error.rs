//! Errors of the copy-on-write engines.

use std::io;

use nvvmm_snapshot::ChunkIndex;

use crate::sys::uffd::UffdError;

/// Why an access could not be answered, or an operation on guest RAM failed.
#[derive(Debug, thiserror::Error)]
pub enum CowError {
    /// Something is used up. The access stays held and may be tried again.
    #[error("{0}: an access to guest memory waits until there is more")]
    NoSpace(Lack),
    /// The memory has not arrived. The access stays held until it has.
    #[error("the memory has not arrived from the object store")]
    Arriving,
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

/// Something that an access to guest memory waits for. None of it is a reason to end a VM: there
/// may be more of it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Lack {
    /// Free blocks of the pool.
    #[error("the pool is full")]
    Blocks,
    /// Memory or space on the medium under the pool, which itself has free blocks.
    #[error("the medium of the pool is full, though the pool is not")]
    Medium,
    /// Memory of the host's kernel, or mappings that it allows this process.
    #[error("the host's kernel has no memory or no mapping left for this process (ENOMEM)")]
    Kernel,
    /// Memory that is to arrive from an object store, while that is away.
    #[error("the object store does not give memory that the guest needs")]
    Store,
}

impl Lack {
    /// Ways to have more of it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Blocks => {
                "make space with 'nvvmm rm', 'nvvmm pool grow' or 'nvvmm stop' of another VM"
            }
            Self::Medium => {
                "remove other files from the pool's medium ('df' shows its use), make it larger, \
                 or use 'nvvmm rm' or 'nvvmm stop' of another VM; 'nvvmm pool grow' does not help"
            }
            Self::Kernel => {
                "free memory of the host, or raise the limits of this process: \
                 vm.max_map_count (sysctl), 'ulimit -v'"
            }
            Self::Store => {
                "'nvvmm ps' names the cause; it is tried again as long as the VM runs, and \
                 'nvvmm stop' ends the VM"
            }
        }
    }
}

impl From<nvvmm_snapshot::Error> for CowError {
    fn from(error: nvvmm_snapshot::Error) -> Self {
        match lack_of(&error) {
            Some(lack) => Self::NoSpace(lack),
            None if matches!(error, nvvmm_snapshot::Error::PoolLocked { .. }) => {
                Self::Locked(error)
            }
            None => Self::Pool(error),
        }
    }
}

/// The lack for which the pool refused, if that is why.
pub(super) fn lack_of(error: &nvvmm_snapshot::Error) -> Option<Lack> {
    use nvvmm_snapshot::Error::{MediumFull, NoSpaceOnMedium, PoolFull};
    match error {
        PoolFull { .. } => Some(Lack::Blocks),
        NoSpaceOnMedium { .. } | MediumFull { .. } => Some(Lack::Medium),
        _ => None,
    }
}

/// True if the pool, or the medium under it, is full.
pub(super) fn is_full(error: &nvvmm_snapshot::Error) -> bool {
    lack_of(error).is_some()
}

/// Makes a [`CowError`] of the system's answer to `op`, before which nothing has changed for the
/// guest: a kernel without memory is asked again later.
pub(super) fn os_again(op: &'static str) -> impl FnOnce(io::Error) -> CowError {
    move |source| match source.raw_os_error() {
        Some(libc::ENOMEM) => CowError::NoSpace(Lack::Kernel),
        _ => os(op)(source),
    }
}

/// Makes a [`CowError`] of the system's answer to `op`.
pub(super) fn os(op: &'static str) -> impl FnOnce(io::Error) -> CowError {
    move |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => CowError::NoSpace(Lack::Medium),
        _ => CowError::Os { op, source },
    }
}

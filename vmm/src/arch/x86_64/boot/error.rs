//! Errors while a guest is loaded.

use std::path::PathBuf;

use nvvmm_snapshot::SizeText;

use crate::spec::files::FileError;

/// An error while loading a guest.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no kernel that can be booted here.
    #[error("{path} is not a kernel that nvvmm can boot: {why}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// The kind of file that it seems to be.
        why: String,
    },
    /// Guest memory is too small.
    #[error(
        "{what} ({}) does not fit into guest memory: {why}",
        SizeText::of(*size_bytes)
    )]
    DoesNotFit {
        /// The part that was to be loaded.
        what: String,
        /// Its size in bytes.
        size_bytes: u64,
        /// The place where it had to go.
        why: String,
    },
    /// The command line is longer than the kernel takes.
    #[error(
        "the kernel command line has {length} characters, this kernel takes at most {length_max}"
    )]
    CmdlineTooLong {
        /// Its length with what nvvmm adds.
        length: usize,
        /// The kernel's limit.
        length_max: usize,
    },
    /// The command line has a character that cannot be handed over.
    #[error("the kernel command line may hold printable ASCII characters only")]
    CmdlineCharacters,
    /// An option that only Linux guests take.
    #[error("a flat guest does not take {0}")]
    LinuxOnly(&'static str),
    /// Too many vCPUs for the protocol.
    #[error("a flat guest runs on at most {vcpus_max} vCPUs, not {vcpus}")]
    TooManyVcpus {
        /// The number asked for.
        vcpus: u8,
        /// The most that there can be.
        vcpus_max: u8,
    },
    /// Guest memory cannot be written where the boot protocol needs it.
    #[error("cannot write {what} at guest address {gpa:#x}: {source}")]
    Memory {
        /// The part that was to be written.
        what: &'static str,
        /// Guest physical address.
        gpa: u64,
        /// The error of vm-memory.
        source: vm_memory::GuestMemoryError,
    },
}

impl BootError {
    /// Advice to the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::File(error) => error.remedy(),
            Self::NotAKernel { .. } => Some(
                "give an x86-64 Linux bzImage, usually /boot/vmlinuz-*, an ELF vmlinux, or a flat \
                 guest with an nvvmm note",
            ),
            Self::DoesNotFit { .. } => Some("give the VM more --memory"),
            Self::CmdlineTooLong { .. } => Some("shorten --cmdline"),
            Self::LinuxOnly(_) => Some("leave it out"),
            _ => None,
        }
    }
}

/// Result of loading.
pub type Result<T> = std::result::Result<T, BootError>;

/// Turns a memory error into [`BootError::Memory`].
pub(super) fn at(
    what: &'static str,
    gpa: u64,
) -> impl FnOnce(vm_memory::GuestMemoryError) -> BootError {
    move |source| BootError::Memory { what, gpa, source }
}

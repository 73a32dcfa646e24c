//! Booting: guest memory and the vCPUs' registers as they are when the guest's first instruction
//! runs.
//!
//! [`load`] recognises the format of the kernel file, puts the kernel and all parts that it expects
//! into guest memory, and gives the [`Entry`]. [`registers`] turns that into vCPU registers.

pub mod acpi;
mod elf;
mod error;
mod flat;
mod image;
pub mod layout;
mod linux;
mod paging;
pub mod registers;

use vm_memory::GuestMemoryBackend;

pub use error::{BootError, Result};
use image::Image;

use crate::spec::files::BootFile;

#[cfg(test)]
mod acpi_test;
#[cfg(test)]
mod load_test;

/// The kernel to boot, and its options.
#[derive(Clone, Copy, Debug)]
pub struct BootParts<'a> {
    /// bzImage, ELF `vmlinux`, or an ELF program with an nvvmm flat-boot note.
    pub kernel: &'a BootFile,
    /// Initial RAM disk; Linux only.
    pub initramfs: Option<&'a BootFile>,
    /// Command line, without what nvvmm adds itself; Linux only.
    pub cmdline: &'a str,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Content of the ACPI tables, for a Linux guest.
    pub acpi: &'a acpi::AcpiParts<'a>,
}

/// First instruction of the guest, and the protocol by which it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Linux 64-bit boot protocol: vCPU 0 starts in kernel mode, the others wait for a start-up
    /// IPI.
    Linux {
        /// First instruction.
        rip: u64,
    },
    /// nvvmm flat protocol: all vCPUs start at user privilege.
    Flat {
        /// First instruction.
        rip: u64,
        /// The guest looks at the memory of [`layout::IDENTITY`].
        has_identity: bool,
    },
}

impl Entry {
    /// The guest has the memory of [`layout::IDENTITY`].
    pub fn has_identity(self) -> bool {
        match self {
            Self::Linux { .. } => true,
            Self::Flat { has_identity, .. } => has_identity,
        }
    }
}

/// Recognises a kernel. True for Linux, false for a flat guest.
///
/// # Errors
/// [`BootError::NotAKernel`], [`BootError::File`].
pub fn is_linux(kernel: &BootFile) -> Result<bool> {
    Ok(match image::open(kernel)? {
        Image::Compressed(_) | Image::Vmlinux(_) => true,
        Image::Flat(..) => false,
    })
}

/// Loads the guest into `memory`, which must be zero.
///
/// # Errors
/// [`BootError`]: the kernel cannot be booted here (the message names the kind of file that it
/// seems to be), it or the initial RAM disk does not fit into guest memory, the command line is too
/// long, or a file cannot be read.
pub fn load<M: GuestMemoryBackend>(memory: &M, parts: &BootParts) -> Result<Entry> {
    match image::open(parts.kernel)? {
        Image::Compressed(file) => linux::load_bzimage(memory, parts, file),
        Image::Vmlinux(program) => linux::load_vmlinux(memory, parts, program),
        Image::Flat(program, note) => flat::load(memory, parts, program, note),
    }
}

//! What a virtual machine is made of, as the user asked for it. Saved with every snapshot, so that
//! a restore builds the same machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One virtio-block disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Raw image file or block device on the host. Its content is not part of a snapshot.
    pub path: PathBuf,
    /// Offered to the guest read-only.
    pub read_only: bool,
}

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// bzImage, ELF `vmlinux`, or an ELF program with an nvvmm flat-boot note.
    pub kernel: PathBuf,
    /// Initial RAM disk for Linux.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line, without what nvvmm adds itself.
    pub cmdline: String,
    /// Number of vCPUs, 1 to [`VmSpec::VCPUS_MAX`].
    pub vcpus: u8,
    /// Guest RAM in bytes, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// virtio-block disks in the guest's order (`vda`, `vdb`, ...).
    pub disks: Vec<DiskSpec>,
    /// A virtio-vsock device. Machines of snapshots that were taken before there was one have
    /// none.
    #[serde(default)]
    pub vsock: bool,
    /// Windows that images of processes can be shown in, at the same time.
    #[serde(default)]
    pub windows: u8,
}

impl VmSpec {
    /// vCPUs one machine may have.
    pub const VCPUS_MAX: u8 = 64;
    /// Windows of a new machine: processes at a time that run with `restore --window`, trees
    /// counting as one.
    pub const WINDOWS_USUAL: u8 = 4;
}

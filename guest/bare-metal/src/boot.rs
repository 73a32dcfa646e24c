//! The boot block of the "nvvmm flat" protocol (README.md).

/// First word of the boot block, "NVVMFLT1".
pub const MAGIC: u64 = u64::from_le_bytes(*b"NVVMFLT1");

/// Address at which the registers of virtio-mmio devices are mapped, one page for each slot.
pub const DEVICES: u64 = 511 << 30;
/// The number of slots.
pub const DEVICES_MAX: u64 = 19;

/// The VMM's message to the guest, at the address in `rsi`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BootBlock {
    /// [`MAGIC`].
    pub magic: u64,
    /// Number of vCPUs that were started.
    pub vcpus: u32,
    /// Zero.
    pub reserved: u32,
    /// End of the RAM that begins at GPA 0.
    pub memory_bytes: u64,
    /// First GPA that neither the VMM's tables nor the program use; zero from there on.
    pub free_start: u64,
}

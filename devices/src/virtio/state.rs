//! Saved state of a virtio-mmio device.

use serde::{Deserialize, Serialize};

use crate::lifecycle::SavedDevice;

/// State of one queue: what the driver set, and how far the device got. The rings themselves are
/// guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStateV1 {
    /// Largest size that the device offers, in descriptors.
    pub max_size: u16,
    /// Size that the driver chose, in descriptors; not yet checked while `ready` is false.
    pub size: u16,
    /// The driver has finished setting up the queue.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
    /// Index of the next available ring entry that the device takes.
    pub next_avail: u16,
    /// Index of the next used ring entry that the device fills.
    pub next_used: u16,
}

/// State of the virtio-mmio transport, its queues and the device behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioMmioStateV1 {
    /// Device type (Virtio 1.2 section 5).
    pub device_type: u32,
    /// All features that were offered to the driver.
    pub offered_features: u64,
    /// Features that the driver accepted so far.
    pub driver_features: u64,
    /// DeviceFeaturesSel register.
    pub device_features_sel: u32,
    /// DriverFeaturesSel register.
    pub driver_features_sel: u32,
    /// QueueSel register.
    pub queue_sel: u32,
    /// Status register, with DEVICE_NEEDS_RESET.
    pub status: u32,
    /// InterruptStatus register.
    pub interrupt_status: u32,
    /// ConfigGeneration register.
    pub config_generation: u32,
    /// The queues, in order.
    pub queues: Vec<QueueStateV1>,
    /// The device's own state.
    pub device: SavedDevice,
}

//! Memory of a VM, as the host and its guest count it.

use serde::{Deserialize, Serialize};

/// Memory of a VM. The host's counts are there always, the guest's where its kernel tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// Name of the VM.
    pub name: String,
    /// Guest RAM.
    pub memory_bytes: u64,
    /// RAM that has a block of the pool.
    pub used_bytes: u64,
    /// Of this, RAM in blocks of the VM's own.
    pub own_bytes: u64,
    /// Of this, RAM in blocks of snapshots.
    pub shared_bytes: u64,
    /// RAM that holds nothing: the guest never used it, or gave it back.
    #[serde(default)]
    pub empty_bytes: u64,
    /// The balloon, unless the VM comes from a snapshot that has none.
    pub balloon: Option<BalloonReport>,
}

/// A balloon of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonReport {
    /// A driver of the guest works with it.
    pub has_driver: bool,
    /// The driver reports memory that is free.
    pub reports_free: bool,
    /// Size that it should have.
    pub target_bytes: u64,
    /// Size that it has.
    pub actual_bytes: u64,
    /// Memory given back to the pool since the guest's last start, all together.
    pub released_bytes: u64,
    /// Memory that nothing in the guest uses.
    pub free_bytes: Option<u64>,
    /// Memory that programs of the guest can get, as its kernel estimates it.
    pub available_bytes: Option<u64>,
    /// Memory that the guest's kernel manages.
    pub total_bytes: Option<u64>,
}

//! Slots and names of the devices that a spec lists.

use std::collections::BTreeMap;

use nvvmm_devices::virtio::DeviceId;
use nvvmm_snapshot::DISKS_MAX;

use super::{MachineError, Result};
use crate::arch::boot::layout::VIRTIO_DEVICES_MAX;
use crate::memory::GuestMemory;
use crate::spec::{DeviceKind, DiskSpec, VmSpec};

/// Checks that a machine can have the devices of `spec`. Opens and makes nothing.
///
/// # Errors
/// [`MachineError::Spec`], which names the device or the limit.
pub fn check(spec: &VmSpec) -> Result<()> {
    check_pool_disks(spec)?;
    assign(spec).map(drop)
}

/// Checks what a snapshot could not hold, and what no guest can be shown.
fn check_pool_disks(spec: &VmSpec) -> Result<()> {
    let is_odd = |disk: &DiskSpec| disk.dax && (disk.pool_disk().is_none() || !disk.read_only);
    if spec.disks().any(is_odd) {
        return Err(MachineError::Spec(
            "only a read-only disk of the pool can be shown as persistent memory: ',ro,dax'".into(),
        ));
    }
    let mut names: Vec<&str> = spec.disks().filter_map(DiskSpec::pool_disk).collect();
    if names.len() > DISKS_MAX {
        let count = names.len();
        return Err(MachineError::Spec(format!(
            "a machine can have at most {DISKS_MAX} disks of the pool, not {count}"
        )));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(MachineError::Spec(format!(
            "the disk '{}' of the pool is given twice",
            pair[0]
        ))),
    }
}

/// Names the devices of `spec` and checks their slots. In the order of the list, which is the order
/// in which devices are paused and saved.
///
/// # Errors
/// [`MachineError::Spec`]: a slot does not exist or is used twice, or there are more devices than
/// slots.
pub(super) fn assign(spec: &VmSpec) -> Result<Vec<(DeviceId, &DeviceKind)>> {
    if spec.devices.len() > VIRTIO_DEVICES_MAX {
        return Err(MachineError::Spec(too_many(spec)));
    }
    let mut used = BTreeMap::<u8, String>::new();
    let mut numbers = BTreeMap::<&str, u32>::new();
    let mut devices = Vec::new();
    for device in &spec.devices {
        let prefix = device.kind.spec::<GuestMemory>().instance_prefix();
        let number = numbers.entry(prefix).or_default();
        let instance = format!("{prefix}{number}");
        *number += 1;
        let slot = u8::try_from(device.slot)
            .ok()
            .filter(|slot| usize::from(*slot) < VIRTIO_DEVICES_MAX);
        let Some(slot) = slot else {
            return Err(MachineError::Spec(format!(
                "device {instance} is in slot {}, but a machine has slots 0 to {} only",
                device.slot,
                VIRTIO_DEVICES_MAX - 1
            )));
        };
        if let Some(other) = used.insert(slot, instance.clone()) {
            return Err(MachineError::Spec(format!(
                "devices {other} and {instance} are both in slot {slot}"
            )));
        }
        devices.push((DeviceId { instance, slot }, &device.kind));
    }
    Ok(devices)
}

/// Disks are the devices of which a user gives any number.
fn too_many(spec: &VmSpec) -> String {
    let (devices, disks) = (spec.devices.len(), spec.disks().count());
    match VIRTIO_DEVICES_MAX.checked_sub(devices - disks) {
        Some(disks_max) => format!("a machine can have at most {disks_max} disks, not {disks}"),
        None => {
            format!("a machine can have at most {VIRTIO_DEVICES_MAX} devices, not {devices}")
        }
    }
}

#[cfg(test)]
#[path = "slots_test.rs"]
mod slots_test;

//! Disks that the guest finds in memory beside its RAM.

use nvvmm_devices::virtio::PmemRange;

use super::{MachineError, Result};
use crate::disk::OpenDisk;
use crate::kvm::KvmVm;
use crate::spec::{DeviceKind, VmSpec};
use crate::window;

/// Most mappings for one disk. Linux allows a process about 65,000 by default.
const PIECES_MAX: usize = 8192;

/// Maps disks for the guest, behind the room for its windows. Gives the place of each.
///
/// # Errors
/// [`MachineError::Dax`] when the pool cannot show a disk so, or what KVM refuses.
pub(super) fn show<'d>(
    vm: &KvmVm,
    spec: &VmSpec,
    physical_bits: u32,
    disks: impl Iterator<Item = &'d OpenDisk>,
) -> Result<Vec<PmemRange>> {
    let is_window = |kind: &DeviceKind| matches!(kind, DeviceKind::Pmem(_));
    let windows = spec.devices.iter().filter(|device| is_window(&device.kind));
    let indexes = windows.count()..;
    let shown = indexes.zip(disks).map(|(index, disk)| {
        let disk_blocks = disk.pool_disk().and_then(|disk| disk.blocks());
        let (pool, blocks) = disk_blocks.ok_or(MachineError::State("a disk that is written"))?;
        let refused = |error: window::WindowError| MachineError::Dax {
            disk: disk.backend().name(),
            reason: error.to_string(),
        };
        let size_bytes = disk.backend().size_bytes();
        let content = window::disk_memory(pool, blocks, size_bytes, PIECES_MAX).map_err(refused)?;
        let range = PmemRange {
            gpa: window::place::gpa(spec.memory_bytes, index),
            size_bytes: content.size_bytes() as u64,
        };
        let last = range.gpa + range.size_bytes - 1;
        if last.checked_shr(physical_bits).unwrap_or(0) > 0 {
            return Err(MachineError::Dax {
                disk: disk.backend().name(),
                reason: "this host's CPUs have no addresses for it behind that much RAM".into(),
            });
        }
        vm.add_read_only_memory(index as u32, range.gpa, &content)?;
        Ok(range)
    });
    shown.collect()
}

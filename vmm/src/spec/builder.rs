//! Making a spec.

use std::path::PathBuf;

use nvvmm_devices::virtio::{BalloonSpec, DiskSpec, NetSpec, PmemSpec, RngSpec, VsockSpec};

use super::{DeclaredDevice, DeviceKind, VmSpec};

/// Pmem devices of a new machine: processes at a time that run with `restore --window`, trees
/// counting as one.
const PMEM_DEVICES: usize = 4;
const MEMORY_BYTES: u64 = 512 << 20;

/// Makes a [`VmSpec`]. Devices get slots in the order in which they are added; the first one is
/// virtio-rng.
#[derive(Clone, Debug)]
pub struct VmSpecBuilder {
    spec: VmSpec,
}

impl VmSpecBuilder {
    /// Starts with one vCPU, 512 MiB of RAM and virtio-rng.
    pub(super) fn new(kernel: PathBuf) -> Self {
        let spec = VmSpec {
            kernel: Some(kernel),
            initramfs: None,
            cmdline: String::new(),
            vcpus: 1,
            memory_bytes: MEMORY_BYTES,
            devices: Vec::new(),
        };
        Self { spec }.device(DeviceKind::Rng(RngSpec {}))
    }

    /// Sets the initial RAM disk.
    #[must_use]
    pub fn initramfs(mut self, initramfs: Option<PathBuf>) -> Self {
        self.spec.initramfs = initramfs;
        self
    }

    /// Sets the kernel command line.
    #[must_use]
    pub fn cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.spec.cmdline = cmdline.into();
        self
    }

    /// Sets the number of vCPUs.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u8) -> Self {
        self.spec.vcpus = vcpus;
        self
    }

    /// Sets the size of guest RAM, a multiple of 2 MiB.
    #[must_use]
    pub fn memory_bytes(mut self, memory_bytes: u64) -> Self {
        self.spec.memory_bytes = memory_bytes;
        self
    }

    /// Adds a device in the slot behind the last one.
    #[must_use]
    pub fn device(self, kind: DeviceKind) -> Self {
        let slots = self.spec.devices.iter().map(|device| device.slot);
        let slot = slots.max().map_or(0, |last| last.saturating_add(1));
        self.device_at(slot, kind)
    }

    /// Adds a device in a slot of the caller's choice. The machine refuses a slot that is used
    /// twice.
    #[must_use]
    pub fn device_at(mut self, slot: u32, kind: DeviceKind) -> Self {
        self.spec.devices.push(DeclaredDevice { slot, kind });
        self
    }

    /// Adds disks.
    #[must_use]
    pub fn disks(self, disks: impl IntoIterator<Item = DiskSpec>) -> Self {
        { disks.into_iter() }.fold(self, |builder, disk| builder.device(DeviceKind::Disk(disk)))
    }

    /// Adds a network card, or none.
    #[must_use]
    pub fn net(self, net: Option<NetSpec>) -> Self {
        { net.into_iter() }.fold(self, |builder, net| builder.device(DeviceKind::Net(net)))
    }

    /// Adds a vsock device.
    #[must_use]
    pub fn vsock(self) -> Self {
        self.device(DeviceKind::Vsock(VsockSpec {}))
    }

    /// Adds a balloon, which reports of free memory come through, too.
    #[must_use]
    pub fn balloon(self) -> Self {
        self.device(DeviceKind::Balloon(BalloonSpec {}))
    }

    /// Adds pmem devices.
    #[must_use]
    pub fn pmem(self, count: usize) -> Self {
        (0..count).fold(self, |builder, _| {
            builder.device(DeviceKind::Pmem(PmemSpec {}))
        })
    }

    /// Adds the devices that nvvmm's agent in the guest works with: vsock, and pmem for `restore
    /// --window`.
    #[must_use]
    pub fn agent_devices(self) -> Self {
        self.vsock().pmem(PMEM_DEVICES)
    }

    /// The spec.
    #[must_use]
    pub fn build(self) -> VmSpec {
        self.spec
    }
}

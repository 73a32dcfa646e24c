//! The encoding of a spec in snapshots: JSON, in one of two forms.
//!
//! | section version | devices |
//! |---|---|
//! | 1 | `disks`, `vsock`, `windows`: slots follow from this order, after virtio-rng in slot 0 |
//! | 2 | `devices`: the list itself |
//! | 3 | the same, and disks may be disks of the pool: `pool_disk` in place of `path` |
//! | 4 | the same, and there may be network cards |
//! | 5 | the same, and there may be a balloon |
//!
//! Version 5 is written when there is a balloon, else version 4 when there is a network card, else
//! version 3 when there is a disk of the pool, version 1 when the devices are in that order,
//! version 2 else.
//!
//! Both name the `architecture` of the machine, by the name that Rust has for it. It is missing in
//! specs from before there was this field: these are of x86-64. Versions of nvvmm from that time
//! pass over the field.
//!
//! Version 1 is all that nvvmm read and wrote before specs had a list. Fields that were added to
//! it later may be missing. So snapshots of usual machines can be restored by older versions, and
//! snapshots with a list are refused by them for the section's version.

use std::path::PathBuf;

use nvvmm_devices::virtio::{DiskSpec, PmemSpec, RngSpec, VsockSpec};
use serde::{Deserialize, Serialize};

use super::{DeclaredDevice, DeviceKind, VmSpec};

/// Version of the section in which devices follow from an order.
pub(super) const BY_ORDER: u32 = 1;
/// Version of the section that lists devices.
pub(super) const LISTED: u32 = 2;
/// Version of the section that lists devices, some of which are disks of the pool.
pub(super) const WITH_POOL_DISKS: u32 = 3;
/// Version of the section that lists devices, among them network cards.
pub(super) const WITH_NETS: u32 = 4;

/// Version of the section that lists devices, among them a balloon.
pub(super) const WITH_BALLOON: u32 = 5;

/// Architecture of machines that this program runs.
const ARCHITECTURE: &str = std::env::consts::ARCH;

/// Reasons why a saved spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// The machine is one of another architecture: the one named.
    #[error("its machine is of architecture {0}; this nvvmm runs {ARCHITECTURE} machines only")]
    OtherArchitecture(String),
    /// The bytes are not a spec.
    #[error("spec: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// The field that is read before all others, which another architecture may not have.
#[derive(Deserialize)]
struct SavedArchitecture {
    #[serde(default = "oldest_architecture")]
    architecture: String,
}

fn oldest_architecture() -> String {
    "x86_64".to_owned()
}

/// Decodes the payload of a section, of either version.
///
/// # Errors
/// [`SpecError`].
pub(crate) fn decode(payload: &[u8]) -> Result<VmSpec, SpecError> {
    let SavedArchitecture { architecture } = serde_json::from_slice(payload)?;
    if architecture != ARCHITECTURE {
        return Err(SpecError::OtherArchitecture(architecture));
    }
    Ok(serde_json::from_slice(payload)?)
}

/// Both forms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedSpec {
    /// Empty: the machine cannot be booted.
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    cmdline: String,
    vcpus: u8,
    memory_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disks: Option<Vec<DiskSpec>>,
    /// Machines of snapshots that were taken before there was a vsock device have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vsock: Option<bool>,
    /// Number of pmem devices; 0 in machines from before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    windows: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<DeclaredDevice>>,
    #[serde(default = "oldest_architecture")]
    architecture: String,
}

/// Devices whose slots follow from an order: virtio-rng, disks, vsock, pmem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ordered {
    disks: Vec<DiskSpec>,
    vsock: bool,
    windows: u8,
}

impl Ordered {
    fn list(self) -> Vec<DeclaredDevice> {
        let kinds = [DeviceKind::Rng(RngSpec {})]
            .into_iter()
            .chain(self.disks.into_iter().map(DeviceKind::Disk))
            .chain(self.vsock.then_some(DeviceKind::Vsock(VsockSpec {})))
            .chain((0..self.windows).map(|_| DeviceKind::Pmem(PmemSpec {})));
        (0..)
            .zip(kinds)
            .map(|(slot, kind)| DeclaredDevice { slot, kind })
            .collect()
    }

    /// `None` when the devices are in other slots, or of other kinds, or disks of the pool.
    fn of(devices: &[DeclaredDevice]) -> Option<Self> {
        let mut ordered = Self::default();
        for device in devices {
            match &device.kind {
                DeviceKind::Disk(disk) if disk.pool_disk().is_some() => return None,
                DeviceKind::Disk(disk) => ordered.disks.push(disk.clone()),
                DeviceKind::Vsock(_) => ordered.vsock = true,
                DeviceKind::Pmem(_) => ordered.windows = ordered.windows.checked_add(1)?,
                _ => {}
            }
        }
        (ordered.clone().list() == devices).then_some(ordered)
    }
}

impl VmSpec {
    /// Version of the section that this spec is saved in.
    pub(crate) fn section_version(&self) -> u32 {
        match Ordered::of(&self.devices) {
            Some(_) => BY_ORDER,
            None if self.has_balloon() => WITH_BALLOON,
            None if self.nets().next().is_some() => WITH_NETS,
            None if self.disks().any(|disk| disk.pool_disk().is_some()) => WITH_POOL_DISKS,
            None => LISTED,
        }
    }

    /// This program reads a section of `version`.
    pub(crate) fn reads_section(version: u32) -> bool {
        matches!(
            version,
            BY_ORDER | LISTED | WITH_POOL_DISKS | WITH_NETS | WITH_BALLOON
        )
    }
}

impl From<VmSpec> for SavedSpec {
    fn from(spec: VmSpec) -> Self {
        let ordered = Ordered::of(&spec.devices);
        let listed = ordered.is_none();
        let ordered = ordered.map(
            |Ordered {
                 disks,
                 vsock,
                 windows,
             }| (disks, vsock, windows),
        );
        let (disks, vsock, windows) = match ordered {
            Some((disks, vsock, windows)) => (Some(disks), Some(vsock), Some(windows)),
            None => (None, None, None),
        };
        Self {
            kernel: spec.kernel.unwrap_or_default(),
            initramfs: spec.initramfs,
            cmdline: spec.cmdline,
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            disks,
            vsock,
            windows,
            devices: listed.then_some(spec.devices),
            architecture: ARCHITECTURE.to_owned(),
        }
    }
}

impl TryFrom<SavedSpec> for VmSpec {
    type Error = &'static str;

    fn try_from(saved: SavedSpec) -> Result<Self, Self::Error> {
        let by_order = saved.vsock.is_some() || saved.windows.is_some();
        let devices = match (saved.devices, saved.disks) {
            (Some(devices), None) if !by_order => devices,
            (None, Some(disks)) => Ordered {
                disks,
                vsock: saved.vsock.unwrap_or_default(),
                windows: saved.windows.unwrap_or_default(),
            }
            .list(),
            _ => return Err("there is neither `disks` nor `devices`, or both are there"),
        };
        Ok(Self {
            kernel: Some(saved.kernel).filter(|path| !path.as_os_str().is_empty()),
            initramfs: saved.initramfs,
            cmdline: saved.cmdline,
            vcpus: saved.vcpus,
            memory_bytes: saved.memory_bytes,
            devices,
        })
    }
}

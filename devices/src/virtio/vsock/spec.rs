//! A vsock device as a spec declares it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::Vsock;
use crate::virtio::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use crate::virtio::device::VirtioDevice;

/// Settings of [`Vsock`]: none. The host's socket is the VM's, and another one after a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockSpec {}

impl<Mem: GuestMemory> DeviceSpec<Mem> for VsockSpec {
    fn instance_prefix(&self) -> &'static str {
        "vsock"
    }

    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        let socket = host.vsock.as_ref().ok_or_else(|| DeviceError::Missing {
            instance: id.instance.clone(),
            part: "a socket on the host",
        })?;
        let vsock = Vsock::new(Arc::clone(socket)).map_err(|source| DeviceError::Host {
            op: "make the vsock device",
            source,
        })?;
        Ok(Box::new(vsock))
    }
}

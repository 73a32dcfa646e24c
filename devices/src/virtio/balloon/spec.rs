//! A balloon as a spec declares it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::{Balloon, BalloonHost};
use crate::virtio::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use crate::virtio::device::VirtioDevice;

/// Settings of [`Balloon`]: none. Its target is part of its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonSpec {}

impl<Mem: GuestMemory> DeviceSpec<Mem> for BalloonSpec {
    fn instance_prefix(&self) -> &'static str {
        "balloon"
    }

    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        let free_pages = host.free_pages.as_ref();
        let free_pages = free_pages.ok_or_else(|| DeviceError::Missing {
            instance: id.instance.clone(),
            part: "RAM that can be given back",
        })?;
        let own = BalloonHost::new().map_err(|source| DeviceError::Host {
            op: "make the balloon device",
            source,
        })?;
        let own = Arc::new(own);
        host.balloon = Some(Arc::clone(&own));
        Ok(Box::new(Balloon::new(Arc::clone(free_pages), own)))
    }
}

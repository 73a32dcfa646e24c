//! A guest learns that it is another one now: new values in its memory before a vCPU runs, and an
//! event when devices are resumed.

use std::io;
use std::sync::PoisonError;

use nvvmm_devices::Generation;
use nvvmm_snapshot::fill_random;

use super::error::host;
use super::{Machine, Result};

impl Machine {
    /// Writes the first values, for a guest that is about to boot.
    pub(super) fn begin_identity(&self) -> Result<()> {
        let identity = self.board.identity.lock();
        let mut identity = identity.unwrap_or_else(PoisonError::into_inner);
        let begun = identity.begin(&*self.memory, &generation()?);
        begun.map_err(|error| host("write the guest's identity")(io::Error::other(error)))
    }

    /// Writes new values, if the guest has a place for them, and tells it when devices are
    /// resumed. vCPUs and devices must be paused.
    ///
    /// Each write is an ordinary one to guest memory: a frame that a snapshot has, too, is copied.
    pub(super) fn renew_identity(&self) -> Result<()> {
        let identity = self.board.identity.lock();
        let mut identity = identity.unwrap_or_else(PoisonError::into_inner);
        if !identity.is_present() {
            return Ok(());
        }
        let renewed = identity.renew(&*self.memory, &generation()?);
        renewed.map_err(|error| host("write the guest's identity")(io::Error::other(error)))?;
        let told = self.power_registers().tell_restored();
        told.map_err(host("tell the guest that it was restored"))
    }
}

fn generation() -> Result<Generation> {
    let mut bytes = [0; Generation::RANDOM_BYTES];
    fill_random(&mut bytes)
        .map_err(|error| host("get random numbers")(io::Error::other(error.to_string())))?;
    Ok(Generation::from_random(bytes))
}

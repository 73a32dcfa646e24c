//! The balloon of a machine.

use nvvmm_devices::virtio::BalloonHost;

use super::Machine;

impl Machine {
    /// The host's side of the balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonHost> {
        self.board.balloon.as_deref()
    }
}

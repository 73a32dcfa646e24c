//! Devices of the machine. The guest writes any values to registers, rings and descriptors. Clients
//! of the console, programs at the socket of a vsock device, and the network of a card, send data
//! and close connections at any time. In between, the machine pauses, saves and restores the
//! devices.
//!
//! The first byte chooses the device. The rest is a script of steps (see `step` in [`virtio`] and
//! [`console`]).

mod balloon;
mod console;
mod network;
pub(crate) mod virtio;
mod vsock;

use crate::script::Script;

/// Most steps of one run. A guest may keep its devices busy for ever, but a run must end.
const STEPS_MAX: usize = 256;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let device = match script.u8() {
        // A device of its own: the seeds keep theirs.
        0xff => virtio::Kind::Balloon,
        byte => match byte % 9 {
            0 => virtio::Kind::Disk { read_only: false },
            1 => virtio::Kind::Disk { read_only: true },
            2 => virtio::Kind::Rng,
            4 => virtio::Kind::Vsock,
            5 => virtio::Kind::Pmem { shown: true },
            6 => virtio::Kind::SlowDisk,
            7 => virtio::Kind::Net { limited: false },
            8 => virtio::Kind::Net { limited: true },
            _ => return console::run(&mut script),
        },
    };
    let mut guest = virtio::Guest::new(device);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        guest.step(&mut script);
    }
    guest.move_to_another_machine();
}

//! The machine's devices: a guest writes registers, rings and descriptors as it likes, the other
//! side of the console sends and hangs up as it likes, so do programs at a vsock device's socket,
//! and the machine pauses, saves and restores the devices in between.
//!
//! First byte: which device. The rest is a script of steps, see `step` in [`virtio`] and
//! [`console`].

mod console;
pub(crate) mod virtio;
mod vsock;

use crate::script::Script;

/// Steps of one run: a guest may keep its devices busy for ever, a run must end.
const STEPS_MAX: usize = 256;

/// Meets the bytes of one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let device = match script.u8() % 6 {
        0 => virtio::Kind::Disk { read_only: false },
        1 => virtio::Kind::Disk { read_only: true },
        2 => virtio::Kind::Rng,
        4 => virtio::Kind::Vsock,
        5 => virtio::Kind::Pmem { shown: true },
        _ => return console::run(&mut script),
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

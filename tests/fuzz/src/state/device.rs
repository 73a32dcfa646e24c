//! Restoring devices, without the machine around them.

use std::sync::Arc;

use nvvmm_devices::{
    AcpiPower, BusDevice, ConsoleOut, CountingIrq, Device, Generation, Identity, IdentityPlaces,
    PowerSignal, SavedDevice, SerialPort,
};

use crate::devices::virtio::{Kind, Machine, memory};

/// Kinds of devices that a machine saves, each with an instance.
pub(super) const KINDS: [(&str, &str); 4] = [
    ("virtio-mmio", "dev0"),
    ("serial", "com1"),
    ("acpi-power", "power0"),
    ("identity", "identity0"),
];
const IDENTITY_PLACES: IdentityPlaces = IdentityPlaces {
    generation_id: 0x10,
    clock_page: 0x1000,
};
const VIRTIO: [Kind; 7] = [
    Kind::Rng,
    Kind::Disk { read_only: false },
    Kind::Disk { read_only: true },
    Kind::SlowDisk,
    Kind::Vsock,
    Kind::Pmem { shown: false },
    Kind::Balloon,
];
/// Turns of the event loop. The number is limited, as a state may keep its device busy for ever.
const TURNS_MAX: usize = 4;

fn serial(instance: &str) -> SerialPort {
    let output = ConsoleOut::new().expect("an eventfd");
    SerialPort::new(instance, Arc::new(CountingIrq::default()), output).expect("an eventfd")
}

fn power() -> AcpiPower {
    let signal = PowerSignal::new().expect("an eventfd");
    AcpiPower::new(signal, Arc::new(CountingIrq::default()))
}

/// States of new devices.
pub(super) fn fresh() -> Vec<SavedDevice> {
    let save = |device: &mut dyn Device| {
        device.pause().expect("pause");
        device.save().expect("save")
    };
    let mut saved = vec![save(&mut serial("com1")), save(&mut power())];
    for (index, kind) in VIRTIO.into_iter().enumerate() {
        saved.push(save(
            &mut Machine::new(kind, &format!("dev{index}"), &memory()).transport,
        ));
    }
    saved
}

/// Restores a state into each kind of device that it may belong to, and runs the device that
/// accepted it.
pub(super) fn restore(saved: &SavedDevice) {
    match saved.kind.as_str() {
        "serial" => {
            if let Some(mut port) = restored(|| serial(&saved.instance), saved) {
                access_all(&mut port, 8, 1);
            }
        }
        "identity" => {
            let mut identity = Identity::absent(IDENTITY_PLACES);
            if identity.restore(Some(saved)).is_ok() {
                let saved = identity.save().expect("save");
                (identity.restore(saved.as_ref())).expect("restoring what was saved");
                assert_eq!(identity.save().expect("save"), saved);
                let renewed = identity.renew(&*memory(), &Generation::default());
                renewed.expect("new values");
            }
        }
        "acpi-power" => {
            if let Some(mut registers) = restored(power, saved) {
                access_all(&mut registers, 4, 1);
            }
        }
        _ => VIRTIO
            .into_iter()
            .for_each(|kind| restore_virtio(kind, saved)),
    }
}

fn restore_virtio(kind: Kind, saved: &SavedDevice) {
    let memory = memory();
    let new = || Machine::new(kind, &saved.instance, &memory).transport;
    if restored(new, saved).is_none() {
        return;
    }
    let mut machine = Machine::new(kind, &saved.instance, &memory);
    machine.transport.restore(saved).expect("restored before");
    machine.transport.resume().expect("resume");
    for _ in 0..TURNS_MAX {
        machine.events.run_with_timeout(0).expect("events");
    }
    access_all(&mut machine.transport, 0x110, 4);
}

/// The device that accepted the state, if it did. It then saves a state that can be restored into
/// itself.
fn restored<D: Device>(new: impl Fn() -> D, saved: &SavedDevice) -> Option<D> {
    let mut device = new();
    device.restore(saved).ok()?;
    let saved = device.save().expect("save");
    // The device locks its disk, so that another device could not open it.
    drop(device);
    let mut device = new();
    device.restore(&saved).expect("restoring what was saved");
    assert_eq!(
        device.save().expect("save"),
        saved,
        "restored to another state"
    );
    device.resume().expect("resume");
    Some(device)
}

/// The guest reads all registers, writes each value back, and reads them again.
fn access_all(device: &mut dyn BusDevice, len: u64, width: usize) {
    for offset in (0..len).step_by(width) {
        let mut bytes = [0; 4];
        device.read(offset, &mut bytes[..width]);
        device.write(offset, &bytes[..width]);
        device.read(offset, &mut bytes[..width]);
    }
}

//! Guests that cause log lines as fast as they can.

use std::sync::Arc;

use nvvmm::memory::GuestRam;
use nvvmm_devices::virtio::{MmioTransport, Rng};
use nvvmm_devices::{AcpiPower, BusDevice, CountingIrq, PowerSignal};

use super::*;

/// More than any guest needs to show that there is no bound.
const OFTEN: usize = 50_000;
const BYTES_MAX: u64 = 64 << 10;

/// A way out that a test can read.
#[derive(Clone)]
struct Out(Arc<LogFile>);

impl Write for Out {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write_lines(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of a VM process in which `guest` does something.
fn log_of(guest: impl FnOnce()) -> String {
    let directory = tempfile::tempdir().unwrap();
    let [path, before] = ["log", "log.1"].map(|name| directory.path().join(name));
    let out = Out(Arc::new(LogFile::open(&path, &before, BYTES_MAX).unwrap()));
    let format = tracing_subscriber::fmt::format().with_ansi(false);
    let subscriber = subscriber(
        EnvFilter::new("trace"),
        Limited::new(format, true),
        move || out.clone(),
    );
    tracing::subscriber::with_default(subscriber, guest);
    std::fs::read_to_string(before).unwrap() + &std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_guest_that_asks_for_sleep_states_for_ever_fills_no_log() {
    let log = log_of(|| {
        let line = std::sync::Arc::new(CountingIrq::default());
        let mut power = AcpiPower::new(PowerSignal::new().unwrap(), line);
        // SLEEP_ENABLE with the sleep type of S3.
        (0..OFTEN).for_each(|_| power.write(0, &[0x20 | 3 << 2]));
    });
    assert!(log.contains("sleep state"), "{log}");
    assert_eq!(log.lines().count(), limit::BURST as usize);
    assert!(log.contains("more like it are left out"), "{log}");
}

#[test]
fn a_guest_that_negotiates_for_ever_fills_no_log() {
    const STATUS: u64 = 0x70;
    const DRIVER_FEATURES: u64 = 0x20;
    const QUEUE_READY: u64 = 0x44;
    const QUEUE_DESC_HIGH: u64 = 0x84;
    const VERSION_1_SELECT: u64 = 0x24;
    let ram = GuestRam::reserve(2 << 20).unwrap();
    let irq = Arc::new(CountingIrq::default());
    let memory = Arc::clone(ram.memory());
    let mut device = MmioTransport::new("rng0", Box::new(Rng::new()), memory, irq).unwrap();
    let mut write = |register: u64, value: u32| device.write(register, &value.to_le_bytes());
    let log = log_of(|| {
        for round in 0..OFTEN {
            for (register, value) in [(STATUS, 0), (STATUS, 1), (STATUS, 3)] {
                write(register, value);
            }
            if round % 2 == 0 {
                // Features that were never offered.
                write(DRIVER_FEATURES, u32::MAX);
                write(STATUS, 11);
            } else {
                // A queue that is not in memory.
                write(VERSION_1_SELECT, 1);
                write(DRIVER_FEATURES, 1);
                write(STATUS, 11);
                write(QUEUE_DESC_HIGH, 0xffff);
                write(QUEUE_READY, 1);
                write(STATUS, 15);
            }
        }
    });
    for expected in ["accepted features", "not in guest memory"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    // Some kinds more come from crates below.
    assert!(log.lines().count() <= 8 * limit::BURST as usize, "{log}");
}

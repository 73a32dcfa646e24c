use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_STATUS};

use super::*;
use crate::virtio::test_driver::*;
use crate::{BusDevice, Device};

const RANGE: PmemRange = PmemRange {
    gpa: 0x1_2345_0000_0000,
    size_bytes: 0x6789_0000,
};

/// A device, its backing, and how often a driver released it.
fn device() -> (Driver, Arc<PmemBacking>, Arc<AtomicU32>) {
    let released = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&released);
    let backing = Arc::new(PmemBacking::new(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    })));
    let driver = Driver::new(Box::new(Pmem::new(Arc::clone(&backing))));
    (driver, backing, released)
}

fn config(driver: &mut Driver) -> [u64; 3] {
    [0, 8, 16].map(|offset| {
        let mut field = [0xff; 8];
        driver
            .transport
            .read(u64::from(VIRTIO_MMIO_CONFIG) + offset, &mut field);
        u64::from_le_bytes(field)
    })
}

#[test]
fn there_is_a_device_while_there_is_memory_behind_it() {
    let (mut driver, backing, released) = device();
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 0);
    assert_eq!(config(&mut driver), [0, 0, 0]);

    assert!(backing.offer(RANGE));
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 27);
    assert_eq!(config(&mut driver), [RANGE.gpa, RANGE.size_bytes, 0]);
    let other = PmemRange { gpa: 0, ..RANGE };
    assert!(!backing.offer(other), "it is taken");

    // A driver begins with a reset, which releases nothing.
    driver.start(0);
    assert_eq!(config(&mut driver), [RANGE.gpa, RANGE.size_bytes, 0]);
    assert!(!backing.offer(other), "it is in use");
    backing.withdraw();
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 27, "it is in use");
    assert_eq!(released.load(Ordering::SeqCst), 0);

    driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(released.load(Ordering::SeqCst), 1);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 0);
    driver.start(0);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(
        released.load(Ordering::SeqCst),
        1,
        "there was nothing to let go"
    );
    assert!(backing.offer(other));
    backing.withdraw();
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 0);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn a_flush_is_done_and_what_else_is_asked_for_fails() {
    let (mut driver, backing, _) = device();
    backing.offer(RANGE);
    driver.start(0);
    for (kind, answer) in [(0u32, 0u32), (1, 1), (u32::MAX, 1)] {
        driver.store(BUFFERS, &kind.to_le_bytes());
        driver.store(BUFFERS + 8, &[0xff; 4]);
        assert_eq!(
            driver.request(&[(BUFFERS, 4, false), (BUFFERS + 8, 4, true)]),
            4
        );
        assert_eq!(driver.load(BUFFERS + 8, 4), answer.to_le_bytes(), "{kind}");
    }
}

#[test]
fn a_request_that_is_too_short_or_outside_memory_makes_the_device_ask_for_a_reset() {
    for buffers in [
        &[(BUFFERS, 3, false), (BUFFERS + 8, 4, true)][..],
        &[(BUFFERS, 4, false), (BUFFERS + 8, 3, true)],
        &[(BUFFERS, 4, false)],
        &[(BUFFERS, 4, true)],
        &[(REGION_BYTES as u64, 4, false), (BUFFERS, 4, true)],
        &[(BUFFERS, 4, false), (u64::MAX - 2, 4, true)],
    ] {
        let (mut driver, backing, _) = device();
        backing.offer(RANGE);
        driver.start(0);
        driver.submit(buffers);
        driver.notify();
        driver.run_events();
        assert!(driver.needs_reset(), "{buffers:x?}");
    }
}

#[test]
fn it_is_saved_without_memory_only() {
    let (mut driver, backing, _) = device();
    backing.offer(RANGE);
    driver.start(0);
    driver.transport.pause().unwrap();
    let refused = driver.transport.save().unwrap_err().to_string();
    assert!(refused.contains("not its own"), "{refused}");
    driver.transport.resume().unwrap();
    driver.write(VIRTIO_MMIO_STATUS, 0);
    let saved = driver.save_paused();

    let (other, other_backing, _) = device();
    let mut copy = driver
        .restore_copy(Box::new(Pmem::new(Arc::clone(&other_backing))), &saved)
        .unwrap();
    drop(other);
    copy.transport.resume().unwrap();
    other_backing.offer(RANGE);
    copy.start(0);
    copy.store(BUFFERS, &[0; 4]);
    assert_eq!(
        copy.request(&[(BUFFERS, 4, false), (BUFFERS + 8, 4, true)]),
        4
    );
}

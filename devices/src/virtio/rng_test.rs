use super::*;
use crate::virtio::test_driver::*;

#[test]
fn a_request_is_filled_with_bytes_that_differ() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.start(0);
    assert_eq!(
        driver.request(&[(BUFFERS, 32, true), (HIGH_REGION, 32, true)]),
        64
    );
    let first = driver.load(BUFFERS, 32);
    let second = driver.load(HIGH_REGION, 32);
    assert_ne!(first, [0; 32]);
    assert_ne!(second, [0; 32]);
    assert_ne!(first, second);
    assert_eq!(
        driver.load(BUFFERS + 32, 32),
        [0; 32],
        "only the buffer is written"
    );
}

#[test]
fn a_long_request_is_answered_in_part() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.start(0);
    assert_eq!(
        driver.request(&[(BUFFERS, 0x20000, true)]) as usize,
        REQUEST_BYTES_MAX
    );
    assert_eq!(driver.load(BUFFERS + REQUEST_BYTES_MAX as u64, 64), [0; 64]);
}

#[test]
fn a_request_without_room_or_outside_memory_makes_the_device_ask_for_a_reset() {
    for buffers in [
        &[(BUFFERS, 8, false)][..],
        &[(BUFFERS, 8, false), (BUFFERS, 8, true)],
        &[(REGION_BYTES as u64, 8, true)],
        &[(u64::MAX - 3, 8, true)],
    ] {
        let mut driver = Driver::new(Box::new(Rng::new()));
        driver.start(0);
        driver.submit(buffers);
        driver.notify();
        driver.run_events();
        assert!(driver.needs_reset(), "{buffers:x?}");
    }
}

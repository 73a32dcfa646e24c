use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN};

use super::*;
use crate::Device;
use crate::virtio::block::block_test::{IOERR, OK, image, open, request};
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::test_driver::*;

const MS: Duration = Duration::from_millis(1);

fn rate(bytes_per_s: u64, requests_per_s: u64) -> DiskRate {
    DiskRate {
        bytes_per_s: NonZeroU64::new(bytes_per_s),
        requests_per_s: NonZeroU64::new(requests_per_s),
    }
}

#[test]
fn a_second_of_tokens_is_saved_up_and_no_more() {
    let mut throttle = Throttle::new(rate(0, 1000)).unwrap();
    for hour in [0, 3600] {
        let now = Duration::from_secs(hour);
        let admitted = (0..2000).filter(|_| throttle.admit_at(0, 0, now)).count();
        assert_eq!(admitted, 1000);
    }
}

#[test]
fn requests_come_at_the_pace_of_the_rate() {
    let mut throttle = Throttle::new(rate(1 << 20, 0)).unwrap();
    assert!(throttle.admit_at(0, 1 << 20, Duration::ZERO));
    // Ten seconds, looked at in steps of 3 ms, with requests of 4 KiB.
    let mut bytes = 0;
    for step in 1..=3333 {
        while throttle.admit_at(0, 4096, step * 3 * MS) {
            bytes += 4096;
        }
    }
    assert!((10 << 20) - bytes <= 8192, "{bytes}");
    assert!(bytes <= 10 << 20, "{bytes}");
}

#[test]
fn any_rate_is_kept_to_a_hundredth_by_whoever_asks_when_told() {
    for bytes_per_s in [64 << 10, 1 << 20, 125_000_000, 5 << 30] {
        for bytes in [60, 1514, 65_536] {
            let mut throttle = Throttle::new(rate(bytes_per_s, 0)).unwrap();
            // What was saved up goes first.
            assert!(throttle.admit_at(0, bytes_per_s, Duration::ZERO));
            let (mut now, mut admitted) = (Duration::ZERO, 0);
            while admitted < 20_000 * bytes {
                if throttle.admit_at(0, bytes, now) {
                    admitted += bytes;
                } else {
                    now += throttle.wait(bytes, now);
                }
            }
            let of_rate = admitted as f64 / (now.as_secs_f64() * bytes_per_s as f64);
            assert!(
                (of_rate - 1.0).abs() < 0.01,
                "{bytes} B at {bytes_per_s} B/s: {of_rate}"
            );
        }
    }
}

#[test]
fn a_request_that_is_larger_than_the_bucket_begins_when_it_is_full_and_is_paid_afterwards() {
    let mut throttle = Throttle::new(rate(1000, 0)).unwrap();
    assert!(throttle.admit_at(0, 5000, Duration::ZERO));
    assert!(!throttle.admit_at(0, 1, 4000 * MS));
    assert!(throttle.admit_at(0, 1, 4001 * MS));
}

#[test]
fn both_limits_hold() {
    let mut throttle = Throttle::new(rate(1000, 2)).unwrap();
    assert!(throttle.admit_at(0, 100, Duration::ZERO));
    assert!(throttle.admit_at(0, 100, Duration::ZERO));
    assert!(!throttle.admit_at(0, 0, 499 * MS), "two requests");
    assert!(throttle.admit_at(0, 1000, 1000 * MS));
    assert!(!throttle.admit_at(0, 600, 1500 * MS), "600 B too soon");
    assert!(throttle.admit_at(0, 600, 1600 * MS));
}

#[test]
fn the_largest_and_the_smallest_rates_can_be_counted() {
    let mut throttle = Throttle::new(rate(u64::MAX, u64::MAX)).unwrap();
    for hour in 0..3_u64 {
        assert!(throttle.admit_at(0, u64::MAX, Duration::from_secs(hour * 3600)));
    }
    let mut throttle = Throttle::new(rate(1, 1)).unwrap();
    assert!(throttle.admit_at(0, u64::MAX, Duration::ZERO));
    assert!(!throttle.admit_at(0, 1, Duration::MAX / 2));
}

#[test]
fn queues_that_wait_have_turns() {
    let mut throttle = Throttle::new(rate(0, 1)).unwrap();
    assert!(throttle.admit_at(0, 0, Duration::ZERO));
    let mut served = Vec::new();
    for second in 1..=6 {
        let now = Duration::from_secs(second);
        // All queues are looked at, the first one first, and again while one is woken.
        loop {
            for queue in 0..3 {
                if throttle.admit_at(queue, 0, now) {
                    served.push(queue);
                }
            }
            if throttle.take_wakes() == 0 {
                break;
            }
        }
        throttle.on_timer();
        throttle.take_wakes();
    }
    for queue in 0..3 {
        let count = served.iter().filter(|&&found| found == queue).count();
        assert_eq!(count, 2, "{served:?}");
    }
}

#[test]
fn a_queue_that_does_not_ask_again_keeps_no_other_from_its_turn() {
    let mut throttle = Throttle::new(rate(0, 1)).unwrap();
    assert!(throttle.admit_at(0, 0, Duration::ZERO));
    assert!(!throttle.admit_at(0, 0, MS));
    assert!(!throttle.admit_at(1, 0, MS));
    throttle.on_timer();
    assert_eq!(throttle.take_wakes(), 1);
    throttle.on_timer();
    assert_eq!(throttle.take_wakes(), 2);
    assert!(throttle.admit_at(1, 0, Duration::from_secs(2)));
    assert_eq!(throttle.take_wakes(), 0);
    throttle.on_timer();
    assert_eq!(throttle.take_wakes(), 0);
}

fn limited(image: &NamedTempFile, rate: DiskRate, queues: usize) -> Box<Block> {
    let block = Block::open(image.path(), &BlockOptions::default()).unwrap();
    Box::new(block.with_queues(queues).with_rate(rate).unwrap())
}

const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

/// Makes a read of so many bytes available, and lets the device look at it.
fn submit_read(driver: &mut Driver, bytes: u32) {
    driver.store(HEADER, &[0; 16]);
    driver.store(HEADER, &VIRTIO_BLK_T_IN.to_le_bytes());
    driver.submit(&[(HEADER, 16, false), (DATA, bytes, true), (STATUS, 1, true)]);
    driver.notify();
    driver.run_events();
}

/// Waits for one request, as long as it takes.
fn wait_finished(driver: &mut Driver) {
    while driver.finished().is_empty() {
        std::thread::sleep(MS);
        driver.run_events();
    }
}

#[test]
fn a_request_that_waits_is_served_when_its_time_comes() {
    let image = image();
    let mut driver = Driver::new(limited(&image, rate(1 << 20, 0), 1));
    driver.start(u64::MAX);
    // Uses up the second that was saved.
    for _ in 0..64 {
        submit_read(&mut driver, 16384);
    }
    for _ in 0..8 {
        submit_read(&mut driver, 16384);
    }
    let mut finished = 0;
    while finished < 72 {
        finished += driver.finished().len();
        driver.run_events();
    }
    assert!(!driver.needs_reset());
}

#[test]
fn a_disk_that_waits_can_be_paused_moved_and_reset() {
    let (image, other) = (image(), image());
    // One request in 2^20 seconds: it does not come by itself.
    let mut driver = Driver::new(limited(&image, rate(1, 0), 1));
    driver.start(u64::MAX);
    submit_read(&mut driver, 16384);
    assert_eq!(driver.finished().len(), 1);
    submit_read(&mut driver, 512);
    assert!(driver.finished().is_empty());
    let saved = driver.save_paused();
    // The copy has limits of its own, and none of the debts.
    let mut copy = driver.restore_copy(open(&other, false), &saved).unwrap();
    copy.transport.resume().unwrap();
    copy.run_events();
    assert_eq!(copy.finished().len(), 1);
    driver.transport.resume().unwrap();
    driver.run_events();
    assert!(driver.finished().is_empty());
    // A guest that resets its disk gets no requests back, and pays on.
    driver.start(u64::MAX);
    submit_read(&mut driver, 512);
    assert!(driver.finished().is_empty());
}

#[test]
fn a_disk_that_waits_does_not_keep_another_queue_of_it_waiting_for_ever() {
    let image = image();
    let mut driver = Driver::new(limited(&image, rate(0, 100), 2));
    driver.start_queues(u64::MAX, 2);
    driver.on(0);
    for _ in 0..60 {
        submit_read(&mut driver, 512);
    }
    for _ in 0..60 {
        submit_read(&mut driver, 512);
        driver.finished();
    }
    driver.on(1);
    submit_read(&mut driver, 512);
    wait_finished(&mut driver);
}

#[test]
fn requests_that_fail_cost_nothing() {
    let image = image();
    let mut driver = Driver::new(limited(&image, rate(0, 1), 1));
    driver.start(u64::MAX);
    for _ in 0..4 {
        let beyond = request(&mut driver, VIRTIO_BLK_T_IN, 1 << 40, &[(DATA, 512, true)]);
        assert_eq!(beyond, IOERR);
    }
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
}

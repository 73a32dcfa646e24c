use std::sync::Mutex;
use std::time::Duration;

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use super::*;
use crate::Device;
use crate::lock::lock;
use crate::virtio::test_driver::*;

const ALL: u64 = u64::MAX;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORT: usize = 3;
const UNIT_BYTES: u64 = 64 << 10;
const UNIT_PAGES: u32 = (UNIT_BYTES / PAGE_BYTES) as u32;

/// Notes what is released.
#[derive(Default)]
struct Released(Mutex<Vec<(u64, u64)>>);

impl FreePages for Released {
    fn unit_bytes(&self) -> u64 {
        UNIT_BYTES
    }

    fn release(&self, ranges: &[FreeRange]) -> u64 {
        let ranges = ranges.iter().map(|range| (range.gpa, range.len_bytes));
        let mut released = lock(&self.0);
        released.extend(ranges);
        7
    }
}

struct Bench {
    driver: Driver,
    released: Arc<Released>,
    host: Arc<BalloonHost>,
}

fn balloon() -> (Box<Balloon>, Arc<Released>, Arc<BalloonHost>) {
    let (released, host) = (
        Arc::new(Released::default()),
        Arc::new(BalloonHost::new().unwrap()),
    );
    let device = Balloon::new(Arc::clone(&released) as _, Arc::clone(&host));
    (Box::new(device), released, host)
}

impl Bench {
    fn new(features: u64, queues: usize) -> Self {
        let (device, released, host) = balloon();
        let mut driver = Driver::new(device);
        driver.start_queues(features, queues);
        Self {
            driver,
            released,
            host,
        }
    }

    fn full() -> Self {
        Self::new(ALL, 4)
    }

    /// Names pages in one request.
    fn name(&mut self, queue: usize, pages: impl IntoIterator<Item = u32>) {
        let bytes: Vec<u8> = pages.into_iter().flat_map(u32::to_le_bytes).collect();
        self.driver.store(BUFFERS, &bytes);
        let buffer = (BUFFERS, bytes.len() as u32, false);
        assert_eq!(self.driver.on(queue).request(&[buffer]), 0);
    }

    fn report(&mut self, ranges: &[(u64, u32)]) -> Vec<(u64, u64)> {
        let buffers: Vec<_> = { ranges.iter() }
            .map(|(gpa, len)| (*gpa, *len, true))
            .collect();
        assert_eq!(self.driver.on(REPORT).request(&buffers), 0);
        self.take()
    }

    fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *lock(&self.released.0))
    }
}

fn statistic(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn what_is_reported_free_is_released_before_it_is_acknowledged() {
    let mut bench = Bench::full();
    assert!(bench.host.status().reports_free);
    let ranges = [(0x20_0000, 0x20_0000), (HIGH_REGION, 0x40_0000)];
    let released = bench.report(&ranges);
    assert_eq!(released, [(0x20_0000, 0x20_0000), (HIGH_REGION, 0x40_0000)]);
    assert_eq!(bench.host.status().released_bytes, 7);
    assert_eq!(
        bench.driver.load(HIGH_REGION, 64),
        [0; 64],
        "nothing is written"
    );
}

#[test]
fn reports_of_any_addresses_are_bounded_and_harm_nobody() {
    let mut bench = Bench::full();
    let odd = [
        (1, 1),
        (1, 1),
        (u64::MAX - 5, u32::MAX - 99),
        (0x7fff_f123, 9),
    ];
    let released = bench.report(&odd);
    let len: u64 = released.iter().map(|range| range.1).sum();
    assert_eq!(len, REPORTED_BYTES_MAX, "{released:x?}");
    assert_eq!(released[..2], [(1, 1); 2]);
    assert!(!bench.driver.needs_reset());
    for (queue, buffer) in [
        (REPORT, (BUFFERS, 64, false)),
        (INFLATE, (BUFFERS, 64, true)),
        (DEFLATE, (BUFFERS, 64, true)),
        (STATISTICS, (BUFFERS, 64, true)),
        (INFLATE, (u64::MAX - 3, 64, false)),
        (STATISTICS, (1 << 40, 10, false)),
    ] {
        let mut bench = Bench::full();
        bench.driver.on(queue).submit(&[buffer]);
        bench.driver.notify();
        bench.driver.run_events();
        assert!(bench.driver.needs_reset(), "{queue} {buffer:x?}");
        assert_eq!(bench.take(), []);
    }
}

#[test]
fn a_unit_is_released_when_all_of_it_is_in_the_balloon() {
    let mut bench = Bench::full();
    bench.name(INFLATE, 0..UNIT_PAGES - 1);
    // A page twice is one page; a part of the last unit stays out.
    bench.name(INFLATE, [0, 3, 3, UNIT_PAGES, UNIT_PAGES + 1]);
    assert_eq!(bench.take(), []);
    bench.name(INFLATE, [UNIT_PAGES - 1]);
    assert_eq!(bench.take(), [(0, UNIT_BYTES)]);
    // It is released again when a page of it was outside meanwhile.
    bench.name(INFLATE, [UNIT_PAGES - 1]);
    assert_eq!(bench.take(), []);
    bench.name(DEFLATE, [5]);
    bench.name(INFLATE, [5]);
    assert_eq!(bench.take(), [(0, UNIT_BYTES)]);
    bench.name(DEFLATE, 0..3 * UNIT_PAGES);
    bench.name(INFLATE, UNIT_PAGES..2 * UNIT_PAGES);
    assert_eq!(bench.take(), [(UNIT_BYTES, UNIT_BYTES)]);
}

#[test]
fn pages_that_are_no_ram_are_in_no_balloon() {
    let mut bench = Bench::full();
    let hole = (REGION_BYTES as u64 / PAGE_BYTES) as u32;
    bench.name(INFLATE, hole..hole + 2 * UNIT_PAGES);
    bench.name(INFLATE, [u32::MAX; 64]);
    bench.name(DEFLATE, [u32::MAX, hole]);
    assert_eq!(bench.take(), []);
    // A request of many pages is looked at in part: the unit behind that part is not complete.
    let last = hole - UNIT_PAGES;
    let many = std::iter::repeat_n(0, REQUEST_PAGES_MAX).chain(last..hole);
    bench.name(INFLATE, many);
    assert_eq!(bench.take(), []);
    bench.driver.store(BUFFERS, &[0; 7]);
    assert_eq!(bench.driver.on(INFLATE).request(&[(BUFFERS, 7, false)]), 0);
}

#[test]
fn statistics_are_reported_when_they_are_wanted() {
    let mut bench = Bench::full();
    let report = [
        statistic(4, 111),
        statistic(5, 222),
        statistic(6, u64::MAX),
        statistic(999, 1),
        vec![7],
    ];
    bench.driver.store(BUFFERS, &report.concat());
    let buffer = (BUFFERS, 41, false);
    bench.driver.on(STATISTICS).submit(&[buffer]);
    bench.driver.notify();
    bench.driver.run_events();
    assert_eq!(
        bench.driver.finished(),
        [],
        "the report stays with the device"
    );
    let expected = GuestMemoryStatistics {
        free_bytes: Some(111),
        total_bytes: Some(222),
        ..Default::default()
    };
    assert_eq!(bench.host.status().statistics, Some(expected));

    // Nobody answers here: the wish stays.
    let status = bench.host.ask(Duration::ZERO);
    assert_eq!(status.statistics, Some(expected));
    bench.driver.run_events();
    assert_eq!(bench.driver.finished().len(), 1);
    bench.driver.store(BUFFERS, &statistic(4, 333));
    bench.driver.submit(&[(BUFFERS, 10, false)]);
    bench.driver.notify();
    bench.driver.run_events();
    assert_eq!(bench.driver.finished(), []);
    let free = bench.host.status().statistics.unwrap().free_bytes;
    assert_eq!(free, Some(333));
}

#[test]
fn a_wish_for_statistics_that_nobody_has_brought_keeps_nobody_busy() {
    let mut bench = Bench::full();
    bench.host.ask(Duration::ZERO);
    bench.driver.run_events();
    assert!(bench.host.wants_statistics());
}

#[test]
fn the_target_reaches_the_driver_and_its_answer_the_host() {
    let mut bench = Bench::full();
    let raised = bench.driver.irq.raised();
    bench.host.set_target(10 * PAGE_BYTES + 1);
    bench.driver.run_events();
    assert_eq!(bench.driver.irq.raised(), raised + 1);
    assert_eq!(bench.driver.read(VIRTIO_MMIO_CONFIG), 10);
    bench.driver.write(VIRTIO_MMIO_CONFIG + 4, 8);
    bench.driver.write(VIRTIO_MMIO_CONFIG, 1234);
    let status = bench.host.status();
    let sizes = (status.target_bytes, status.actual_bytes);
    assert_eq!(sizes, (10 * PAGE_BYTES, 8 * PAGE_BYTES));

    let saved = bench.driver.save_paused();
    let (device, released, host) = balloon();
    let mut copy = bench.driver.restore_copy(device, &saved).unwrap();
    copy.transport.resume().unwrap();
    assert_eq!(copy.read(VIRTIO_MMIO_CONFIG), 10);
    assert_eq!(copy.read(VIRTIO_MMIO_CONFIG + 4), 8);
    let status = host.status();
    assert!(status.has_driver && status.reports_free);
    copy.on(REPORT).request(&[(HIGH_REGION, 4096, true)]);
    assert_eq!(lock(&released.0).len(), 1);
    copy.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    let status = host.status();
    assert!(!status.has_driver && status.actual_bytes == 0);
    assert_eq!(
        status.target_bytes,
        10 * PAGE_BYTES,
        "of the next driver, too"
    );
    bench.host.set_target(u64::MAX);
    assert_eq!(bench.host.status().target_bytes, u64::from(u32::MAX) << 12);
}

#[test]
fn queues_that_were_not_negotiated_leave_no_gap() {
    let mut bench = Bench::new(1 << VIRTIO_BALLOON_F_REPORTING, 3);
    let report = [(HIGH_REGION, 4096, true)];
    assert_eq!(bench.driver.on(2).request(&report), 0);
    assert_eq!(bench.take(), [(HIGH_REGION, 4096)]);
    let mut bench = Bench::new(0, 3);
    assert!(!bench.host.status().reports_free);
    bench.name(INFLATE, 0..UNIT_PAGES);
    assert_eq!(bench.take(), [(0, UNIT_BYTES)]);
    bench.driver.on(2).submit(&report);
    bench.driver.notify();
    bench.driver.run_events();
    assert!(bench.driver.needs_reset());
}

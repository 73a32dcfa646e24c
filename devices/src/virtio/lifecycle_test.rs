use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_DRIVER_OK;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::BusDevice;
use crate::virtio::test_driver::*;
use crate::virtio::{Block, BlockOptions, BlockStateV1, Rng};

const FEATURES: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const SECTORS: u64 = 8;
const BUFFER: TestBuffer = (BUFFERS, 16, true);

fn image() -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(SECTORS * 512).unwrap();
    image
}

fn copy_of(image: &NamedTempFile) -> NamedTempFile {
    let copy = NamedTempFile::new().unwrap();
    fs::copy(image.path(), copy.path()).unwrap();
    copy
}

fn block(path: &Path) -> Box<Block> {
    Box::new(
        Block::open(
            path,
            &BlockOptions {
                read_only: false,
                serial: "one".to_owned(),
            },
        )
        .unwrap(),
    )
}

fn rng_driver() -> Driver {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.start(0);
    driver
}

/// Puts a one-sector request into the ring at its own place in memory, and answers where its data
/// and status are.
fn submit_block(driver: &mut Driver, slot: u64, kind: u32, sector: u64) -> (u64, u64) {
    let header = BUFFERS + slot * 0x1000;
    let (data, status) = (header + 0x400, header + 0x20);
    driver.store(header, &kind.to_le_bytes());
    driver.store(header + 8, &sector.to_le_bytes());
    driver.store(status, &[0xee]);
    driver.submit(&[
        (header, 16, false),
        (data, 512, kind == VIRTIO_BLK_T_IN),
        (status, 1, true),
    ]);
    (data, status)
}

#[test]
fn a_running_device_is_not_saved() {
    let driver = rng_driver();
    assert!(matches!(
        driver.transport.save(),
        Err(LifecycleError::NotPaused { .. })
    ));
}

#[test]
fn a_paused_device_serves_nothing_until_it_is_resumed() {
    let mut driver = rng_driver();
    driver.transport.pause().unwrap();
    driver.submit(&[BUFFER]);
    driver.notify();
    driver.run_events();
    assert!(driver.finished().is_empty());
    assert_eq!(driver.load(BUFFERS, 16), [0; 16]);
    assert_eq!(driver.irq.raised(), 0);
    driver.transport.resume().unwrap();
    driver.run_events();
    assert_eq!(driver.finished().len(), 1);
    assert_eq!(driver.irq.raised(), 1);
}

#[test]
fn a_resume_wakes_nobody_for_a_device_without_a_driver() {
    let was_kicked = |driver: &Driver| driver.transport.queue_events()[0].read().is_ok();
    let mut idle = Driver::new(Box::new(Rng::new()));
    let mut used = rng_driver();
    for driver in [&mut idle, &mut used] {
        driver.transport.pause().unwrap();
        driver.transport.resume().unwrap();
    }
    assert!(!was_kicked(&idle));
    assert!(was_kicked(&used));
}

#[test]
fn a_restored_disk_goes_on_where_the_snapshot_was_taken_and_so_does_the_original() {
    let disk = image();
    let mut original = Driver::new(block(disk.path()));
    original.start(FEATURES | 1 << VIRTIO_RING_F_EVENT_IDX);
    let (data, status) = submit_block(&mut original, 0, VIRTIO_BLK_T_OUT, 1);
    original.store(data, &[0x11; 512]);
    original.notify();
    original.run_events();
    assert_eq!(original.load(status, 1), [0]);
    // One request is in the ring, and its notification is lost: it is in neither machine's eventfd.
    let (pending_data, pending_status) = submit_block(&mut original, 1, VIRTIO_BLK_T_IN, 1);
    let saved = original.save_paused();
    let disk_copy = copy_of(&disk);
    let mut copy = original
        .restore_copy(block(disk_copy.path()), &saved)
        .unwrap();
    copy.run_events();
    assert_eq!(
        copy.load(pending_status, 1),
        [0xee],
        "restored devices are paused"
    );

    for (name, driver) in [("original", &mut original), ("copy", &mut copy)] {
        driver.transport.resume().unwrap();
        driver.run_events();
        assert_eq!(driver.finished().len(), 2, "{name}");
        assert_eq!(driver.load(pending_status, 1), [0], "{name}");
        assert_eq!(driver.load(pending_data, 512), [0x11; 512], "{name}");
    }
    let (data, _) = submit_block(&mut copy, 2, VIRTIO_BLK_T_OUT, 2);
    copy.store(data, &[0x22; 512]);
    copy.notify();
    copy.run_events();
    assert_eq!(fs::read(disk_copy.path()).unwrap()[1024..1536], [0x22; 512]);
    assert_eq!(fs::read(disk.path()).unwrap()[1024..1536], [0; 512]);
    let (data, status) = submit_block(&mut original, 2, VIRTIO_BLK_T_IN, 2);
    original.notify();
    original.run_events();
    assert_eq!(original.load(status, 1), [0]);
    assert_eq!(original.load(data, 512), [0; 512]);
}

#[test]
fn ring_positions_survive_a_wrap() {
    let mut driver = rng_driver();
    for _ in 0..1030 {
        for _ in 0..64 {
            driver.submit(&[BUFFER]);
        }
        driver.notify();
        driver.run_events();
        assert_eq!(driver.finished().len(), 64);
    }
    let saved = driver.save_paused();
    let mut copy = driver.restore_copy(Box::new(Rng::new()), &saved).unwrap();
    copy.transport.resume().unwrap();
    assert_eq!(copy.request(&[BUFFER]), 16);
}

#[test]
fn a_pending_interrupt_is_raised_again_and_no_other() {
    let mut driver = rng_driver();
    driver.request(&[BUFFER]);
    let pending = driver.save_paused();
    driver.transport.resume().unwrap();
    assert_eq!(driver.irq.raised(), 2);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    let acknowledged = driver.save_paused();

    let mut copy = driver.restore_copy(Box::new(Rng::new()), &pending).unwrap();
    assert_eq!(copy.irq.raised(), 0);
    copy.transport.resume().unwrap();
    assert_eq!(copy.irq.raised(), 1);
    assert_eq!(
        copy.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );

    let mut copy = driver
        .restore_copy(Box::new(Rng::new()), &acknowledged)
        .unwrap();
    copy.transport.resume().unwrap();
    assert_eq!(copy.irq.raised(), 0);
}

#[test]
fn a_driver_in_the_middle_of_its_set_up_can_finish_it_after_restore() {
    let mut driver = Driver::new(Box::new(Rng::new()));
    driver.negotiate(1 << VIRTIO_RING_F_EVENT_IDX);
    driver.write_queue_registers(64, DESC_TABLE, AVAIL_RING, 0);
    let saved = driver.save_paused();
    let mut copy = driver.restore_copy(Box::new(Rng::new()), &saved).unwrap();
    copy.transport.resume().unwrap();
    copy.set_up_queue(64);
    copy.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert_eq!(copy.request(&[BUFFER]), 16);
}

#[test]
fn a_device_that_waits_for_its_reset_still_does_after_restore() {
    let mut driver = rng_driver();
    driver.set_avail_index(100);
    driver.notify();
    driver.run_events();
    let saved = driver.save_paused();
    let mut copy = driver.restore_copy(Box::new(Rng::new()), &saved).unwrap();
    copy.transport.resume().unwrap();
    copy.run_events();
    assert!(copy.needs_reset());
    copy.start(0);
    assert_eq!(copy.request(&[BUFFER]), 16);
}

#[test]
fn a_disk_of_another_size_or_mode_is_refused() {
    let disk = image();
    let mut driver = Driver::new(block(disk.path()));
    driver.start(FEATURES);
    let saved = driver.save_paused();
    let larger = image();
    larger.as_file().set_len((SECTORS + 1) * 512).unwrap();
    let error = driver
        .restore_copy(block(larger.path()), &saved)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("4096 B") && error.contains("4608 B") && error.contains("copy of the disk"),
        "{error}"
    );
    let same = image();
    let read_only = BlockOptions {
        read_only: true,
        ..BlockOptions::default()
    };
    let read_only = Box::new(Block::open(same.path(), &read_only).unwrap());
    let error = driver
        .restore_copy(read_only, &saved)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("writable") && error.contains("read-only"),
        "{error}"
    );
    let error = driver
        .restore_copy(Box::new(Rng::new()), &saved)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("type 2") && error.contains("type 4"),
        "{error}"
    );
}

#[test]
fn a_disk_keeps_its_serial_number() {
    let disk = image();
    let mut driver = Driver::new(block(disk.path()));
    let saved = driver.save_paused();
    let copy = copy_of(&disk);
    let other = BlockOptions {
        read_only: false,
        serial: "two".to_owned(),
    };
    let other = Box::new(Block::open(copy.path(), &other).unwrap());
    let mut copy = driver.restore_copy(other, &saved).unwrap();
    let state: VirtioMmioStateV1 = copy.save_paused().decode(KIND, VERSION, "dev0").unwrap();
    let block: BlockStateV1 = state.device.decode("virtio-block", 1, "dev0").unwrap();
    assert_eq!(&block.id[..4], b"one\0");
}

/// Restores a state that `change` has been applied to, and answers the error.
fn restore_changed(change: impl FnOnce(&mut VirtioMmioStateV1)) -> Option<String> {
    let mut driver = rng_driver();
    let saved = driver.save_paused();
    let mut state: VirtioMmioStateV1 = saved.decode(KIND, VERSION, "dev0").unwrap();
    change(&mut state);
    let changed = SavedDevice::encode(KIND, VERSION, "dev0", &state).unwrap();
    driver
        .restore_copy(Box::new(Rng::new()), &changed)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn a_state_that_makes_no_sense_is_refused() {
    assert_eq!(restore_changed(|_| {}), None);
    type Change = fn(&mut VirtioMmioStateV1);
    let cases: [(&str, Change); 10] = [
        ("features", |state| state.offered_features |= 1 << 50),
        ("never offered", |state| state.driver_features |= 1 << 50),
        ("bits that do not exist", |state| state.status |= 1 << 20),
        ("bits that do not exist", |state| {
            state.interrupt_status |= 4
        }),
        ("other queues", |state| state.queues.clear()),
        ("other queues", |state| state.queues[0].max_size = 32),
        ("queue 0", |state| state.queues[0].size = 3),
        ("queue 0", |state| state.queues[0].used_ring = u64::MAX - 3),
        ("queue 0", |state| {
            state.queues[0].desc_table = REGION_BYTES as u64
        }),
        ("version 2", |state| state.device.version = 2),
    ];
    for (expected, change) in cases {
        let error = restore_changed(change).expect(expected);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_encoded_state_of_version_1_does_not_change() {
    let mut driver = rng_driver();
    driver.request(&[BUFFER]);
    let saved = driver.save_paused();
    let expected = [
        4, // device type
        128, 128, 128, 128, 19, // offered features: VERSION_1, EVENT_IDX, INDIRECT_DESC
        128, 128, 128, 128, 16, // driver features: VERSION_1
        0, 0, 0,  // selectors
        15, // status
        1,  // interrupt status
        0,  // config generation
        1,  // queues
        64, 64, 1, // max size, size, ready
        128, 32, 128, 64, 128, 96, // descriptor table, available and used ring
        1, 1, // ring positions
        10, b'v', b'i', b'r', b't', b'i', b'o', b'-', b'r', b'n', b'g', 1, // kind and version
        4, b'd', b'e', b'v', b'0', 0, // instance and payload
    ];
    assert_eq!(saved.payload, expected);
}

#[test]
fn every_register_comes_back() {
    let mut driver = rng_driver();
    driver.request(&[BUFFER]);
    let saved = driver.save_paused();
    let mut state: VirtioMmioStateV1 = saved.decode(KIND, VERSION, "dev0").unwrap();
    // What a fresh device has not.
    (state.device_features_sel, state.driver_features_sel) = (1, 2);
    (state.queue_sel, state.config_generation) = (3, 4);
    let changed = SavedDevice::encode(KIND, VERSION, "dev0", &state).unwrap();
    let copy = driver.restore_copy(Box::new(Rng::new()), &changed).unwrap();
    assert_eq!(copy.transport.save().unwrap(), changed);
}

/// An event thread that serves one device until the test ends it.
struct EventThread {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl EventThread {
    fn start(driver: &Driver) -> Self {
        let subscriber = driver.transport.subscriber();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut events: EventManager<Box<dyn MutEventSubscriber + Send>> =
                EventManager::new().unwrap();
            events.add_subscriber(Box::new(subscriber));
            while !stopped.load(Ordering::SeqCst) {
                events.run_with_timeout(10).unwrap();
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Waits until the device has finished `count` requests.
fn wait_for(driver: &mut Driver, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut finished = 0;
    while finished < count {
        assert!(!driver.needs_reset(), "the device gave up");
        assert!(
            Instant::now() < deadline,
            "{finished} of {count} requests were served"
        );
        finished += driver.finished().len();
        thread::yield_now();
    }
    assert_eq!(finished, count);
}

/// All that a device can change: memory, the disk, and how often it interrupted.
fn visible(driver: &Driver, disk: &Path) -> (Vec<u8>, Vec<u8>, u64) {
    (
        driver.load(0, REGION_BYTES),
        fs::read(disk).unwrap(),
        driver.irq.raised(),
    )
}

/// With the event thread at work on real I/O, a pause at any time finds it between two requests.
#[test]
fn after_pause_nothing_moves_although_the_event_thread_runs() {
    let disk = image();
    let mut driver = Driver::new(block(disk.path()));
    driver.start(FEATURES);
    let events = EventThread::start(&driver);
    for round in 0..200 {
        for slot in 0..8 {
            let kind = [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN][slot as usize % 2];
            submit_block(&mut driver, slot, kind, slot);
        }
        driver.notify();
        for _ in 0..round {
            thread::yield_now();
        }
        driver.transport.pause().unwrap();
        let before = visible(&driver, disk.path());
        let saved = driver.transport.save().unwrap();
        thread::yield_now();
        assert!(visible(&driver, disk.path()) == before);
        assert_eq!(driver.transport.save().unwrap(), saved);
        driver.transport.resume().unwrap();
        // All eight are served in the end, also those whose notification fell into the pause.
        wait_for(&mut driver, 8);
    }
    events.stop();
    let mut word = [0; 4];
    driver
        .transport
        .read(u64::from(VIRTIO_MMIO_STATUS), &mut word);
    assert_eq!(word[0], 15);
}

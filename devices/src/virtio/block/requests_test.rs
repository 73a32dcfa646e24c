//! Discards, zeros, several queues, a new size.

use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_mmio::*;

use super::block_test::{DATA, FLUSH, IOERR, OK, SECTORS, UNSUPP, image, on_disk, open, request};
use super::{Block, BlockOptions, RawDisk};
use crate::virtio::VirtioMmioStateV1;
use crate::virtio::test_driver::*;
use crate::{BusDevice, Device, SavedDevice};

const ALL: u64 = u64::MAX;
const UNMAP: u32 = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
/// Most sectors of a range.
const SECTORS_MAX: u32 = (64 << 20) / 512;
const KINDS: [u32; 2] = [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES];

fn driver(image: &NamedTempFile) -> Driver {
    let mut driver = Driver::new(open(image, false));
    driver.start(ALL);
    driver
}

/// Sends a request with ranges: sector, number of sectors, flags.
fn ranges(driver: &mut Driver, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let mut bytes = Vec::new();
    for (sector, count, flags) in ranges {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    driver.store(DATA, &bytes);
    request(driver, kind, 0, &[(DATA, bytes.len() as u32, false)])
}

fn assert_untouched(image: &NamedTempFile) {
    for sector in 0..SECTORS {
        assert_eq!(on_disk(image, sector), [sector as u8; 512], "{sector}");
    }
}

fn config_u32(driver: &mut Driver, offset: u32) -> u32 {
    driver.read(VIRTIO_MMIO_CONFIG + offset)
}

#[test]
fn the_configuration_space_has_all_limits() {
    let image = image();
    let mut driver = driver(&image);
    let offered = driver.offered_features();
    for feature in [
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
    ] {
        assert_ne!(offered & 1 << feature, 0, "{feature}");
    }
    // Sectors of 512 bytes in blocks of 2^3; writes of 8 sectors at least.
    assert_eq!(config_u32(&mut driver, 20), 512);
    assert_eq!(config_u32(&mut driver, 24), 3 | 8 << 16);
    assert_eq!(config_u32(&mut driver, 28), 0);
    assert_eq!(config_u32(&mut driver, 32), 1 << 16, "one queue");
    assert_eq!(config_u32(&mut driver, 36), SECTORS_MAX);
    assert_eq!(config_u32(&mut driver, 40), 16);
    assert_eq!(config_u32(&mut driver, 44), 8);
    assert_eq!(config_u32(&mut driver, 48), SECTORS_MAX);
    assert_eq!(config_u32(&mut driver, 52), 1);
    assert_eq!(config_u32(&mut driver, 56), 1);
}

#[test]
fn a_read_only_disk_refuses_discards_and_zeros() {
    let image = image();
    let mut driver = Driver::new(open(&image, true));
    driver.start(ALL);
    for kind in KINDS {
        assert_eq!(ranges(&mut driver, kind, &[(0, 8, 0)]), IOERR);
    }
    assert_untouched(&image);
}

#[test]
fn zeros_are_on_the_disk_with_and_without_unmap() {
    for flags in [0, UNMAP] {
        let image = image();
        let mut driver = driver(&image);
        let status = ranges(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &[(5, 20, flags)]);
        assert_eq!(status, OK);
        for sector in 0..SECTORS {
            let expected = if (5..25).contains(&sector) {
                0
            } else {
                sector as u8
            };
            assert_eq!(on_disk(&image, sector), [expected; 512], "{sector}");
        }
    }
}

#[test]
fn a_discard_of_several_ranges_leaves_the_others_as_they_are() {
    let image = image();
    let mut driver = driver(&image);
    let discarded = [(8, 8, 0), (24, 16, 0), (0, 0, 0), (SECTORS, 0, 0)];
    assert_eq!(ranges(&mut driver, VIRTIO_BLK_T_DISCARD, &discarded), OK);
    for sector in (0..8).chain(16..24).chain(40..SECTORS) {
        assert_eq!(on_disk(&image, sector), [sector as u8; 512], "{sector}");
    }
    assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn ranges_that_do_not_exist_are_refused_before_any_effect() {
    let image = image();
    let mut driver = driver(&image);
    for kind in KINDS {
        for bad in [
            (SECTORS, 1, 0),
            (SECTORS - 1, 2, 0),
            (u64::MAX, 1, 0),
            (u64::MAX / 512, 1, 0),
            (1 << 55, 1, 0),
            (0, SECTORS_MAX + 1, 0),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(ranges(&mut driver, kind, &[bad]), IOERR, "{kind} {bad:?}");
        }
    }
    // The first range is a good one.
    let mixed = [(0, 8, 0), (SECTORS, 1, 0)];
    assert_eq!(ranges(&mut driver, VIRTIO_BLK_T_DISCARD, &mixed), IOERR);
    assert_untouched(&image);
    assert!(!driver.needs_reset());
}

#[test]
fn other_flags_are_unsupported() {
    let image = image();
    let mut driver = driver(&image);
    for (kind, flags) in [
        (VIRTIO_BLK_T_DISCARD, UNMAP),
        (VIRTIO_BLK_T_DISCARD, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, UNMAP | 1 << 31),
    ] {
        let status = ranges(&mut driver, kind, &[(0, 8, flags)]);
        assert_eq!(status, UNSUPP, "{kind} {flags:#x}");
    }
    assert_untouched(&image);
}

#[test]
fn lists_of_ranges_have_a_length() {
    let image = image();
    let mut driver = driver(&image);
    driver.store(DATA, &[0; 0x400]);
    for kind in KINDS {
        assert_eq!(request(&mut driver, kind, 0, &[]), IOERR, "none");
        for len in [1, 15, 17, 24, 17 * 16] {
            let status = request(&mut driver, kind, 0, &[(DATA, len, false)]);
            assert_eq!(status, IOERR, "{kind} {len}");
        }
        let outside = (REGION_BYTES as u64, 16, false);
        assert_eq!(request(&mut driver, kind, 0, &[outside]), IOERR);
    }
    let two = [(0, 8, 0); 2];
    let status = ranges(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &two);
    assert_eq!(status, IOERR, "one range at a time");
    assert_eq!(
        ranges(&mut driver, VIRTIO_BLK_T_DISCARD, &[(0, 0, 0); 16]),
        OK
    );
    assert_untouched(&image);
}

#[test]
fn requests_that_were_not_negotiated_are_unsupported() {
    let image = image();
    let mut driver = Driver::new(open(&image, false));
    driver.start(FLUSH);
    for kind in KINDS {
        assert_eq!(ranges(&mut driver, kind, &[(0, 8, 0)]), UNSUPP);
    }
    driver.start(ALL);
    driver.start(FLUSH);
    assert_eq!(ranges(&mut driver, KINDS[1], &[(0, 8, 0)]), UNSUPP);
    assert_untouched(&image);
}

#[test]
fn a_request_without_a_place_for_its_status_has_no_effect() {
    let image = image();
    let mut driver = driver(&image);
    driver.store(DATA, &VIRTIO_BLK_T_OUT.to_le_bytes());
    driver.store(DATA + 16, &[0xff; 512]);
    driver.submit(&[(DATA, 16 + 512, false), (REGION_BYTES as u64, 1, true)]);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset());
    assert_untouched(&image);
}

fn block_with_queues(image: &NamedTempFile, queues: usize) -> Box<Block> {
    let block = Block::open(image.path(), &BlockOptions::default()).unwrap();
    Box::new(block.with_queues(queues))
}

#[test]
fn every_queue_is_served() {
    let image = image();
    let mut driver = Driver::new(block_with_queues(&image, 3));
    driver.start_queues(ALL, 3);
    assert_eq!(config_u32(&mut driver, 32), 3 << 16);
    for queue in 0..3 {
        driver.on(queue);
        driver.store(DATA, &[0xf0 + queue as u8; 512]);
        let status = request(
            &mut driver,
            VIRTIO_BLK_T_OUT,
            queue as u64,
            &[(DATA, 512, false)],
        );
        assert_eq!(status, OK);
        assert_eq!(on_disk(&image, queue as u64), [0xf0 + queue as u8; 512]);
    }
    let most = block_with_queues(&super::block_test::image(), 1000);
    assert_eq!(most.queue_sizes.len(), 64);
}

#[test]
fn a_state_with_one_queue_is_restored_to_a_disk_that_has_more() {
    let (first, second) = (image(), image());
    let mut driver = Driver::new(open(&first, false));
    driver.start(FLUSH);
    let saved = driver.save_paused();
    let device = block_with_queues(&second, 3);
    let mut copy = driver.restore_copy(device, &saved).unwrap();
    assert_eq!(copy.transport.save().unwrap(), saved);
    copy.transport.resume().unwrap();
    assert_eq!(config_u32(&mut copy, 32), 1 << 16);
    copy.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(copy.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    copy.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    let read = request(&mut copy, VIRTIO_BLK_T_IN, 3, &[(DATA, 512, true)]);
    assert_eq!(read, OK);
    assert_eq!(copy.load(DATA, 512), [3; 512]);
    // Also after the guest has reset its disk, as a reboot does.
    copy.start(ALL);
    copy.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(copy.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn a_guest_of_an_older_snapshot_keeps_the_features_that_it_was_offered() {
    let (first, second) = (image(), image());
    let mut driver = Driver::new(open(&first, false));
    driver.start(FLUSH);
    let saved = driver.save_paused();
    let mut state: VirtioMmioStateV1 = saved.decode("virtio-mmio", 1, "dev0").unwrap();
    // All that there was before discards, zeros and several queues.
    let old = [
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        28,
        29,
        32,
    ];
    state.offered_features = old.iter().fold(0, |all, bit| all | 1 << bit);
    let old = SavedDevice::encode("virtio-mmio", 1, "dev0", &state).unwrap();
    let device = block_with_queues(&second, 2);
    let mut copy = driver.restore_copy(device, &old).unwrap();
    assert_eq!(copy.transport.save().unwrap(), old);
    copy.transport.resume().unwrap();
    assert_eq!(copy.offered_features(), state.offered_features);
    assert_eq!(
        ranges(&mut copy, VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]),
        UNSUPP
    );
    assert_eq!(request(&mut copy, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    copy.start(ALL);
    assert_eq!(
        ranges(&mut copy, VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]),
        UNSUPP
    );
}

#[test]
fn a_state_with_more_queues_than_the_disk_has_is_refused() {
    let (first, second) = (image(), image());
    let mut driver = Driver::new(block_with_queues(&first, 3));
    driver.start_queues(ALL, 3);
    let saved = driver.save_paused();
    let refused = driver.restore_copy(block_with_queues(&second, 2), &saved);
    let reason = refused.err().unwrap().to_string();
    assert!(reason.contains("other queues"), "{reason}");
    driver
        .restore_copy(block_with_queues(&second, 3), &saved)
        .unwrap();
}

#[test]
fn a_running_driver_is_told_of_a_new_size() {
    let image = image();
    let mut driver = driver(&image);
    let beyond =
        |driver: &mut Driver| request(driver, VIRTIO_BLK_T_OUT, SECTORS, &[(DATA, 512, false)]);
    assert!(!driver.transport.look_anew().unwrap(), "nothing changed");
    assert_eq!(beyond(&mut driver), IOERR);
    let generation = driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    let raised = driver.irq.raised();
    image.as_file().set_len((SECTORS + 8) * 512).unwrap();
    assert!(driver.transport.look_anew().unwrap());
    assert_eq!(driver.irq.raised(), raised + 1);
    let causes = driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
    assert_ne!(causes & VIRTIO_MMIO_INT_CONFIG, 0);
    assert_ne!(driver.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_eq!(u64::from(config_u32(&mut driver, 0)), SECTORS + 8);
    assert_eq!(beyond(&mut driver), OK);

    image.as_file().set_len(1000).unwrap();
    driver.transport.look_anew().unwrap_err();
    assert_eq!(u64::from(config_u32(&mut driver, 0)), SECTORS + 8);
}

#[test]
fn a_paused_driver_and_its_copies_are_told_of_a_new_size_when_they_go_on() {
    let (image, other) = (image(), image());
    let mut driver = driver(&image);
    driver.transport.pause().unwrap();
    image.as_file().set_len((SECTORS + 8) * 512).unwrap();
    other.as_file().set_len((SECTORS + 8) * 512).unwrap();
    let raised = driver.irq.raised();
    assert!(driver.transport.look_anew().unwrap());
    assert_eq!(driver.irq.raised(), raised, "it stands still");
    let saved = driver.transport.save().unwrap();
    let mut copy = driver.restore_copy(open(&other, false), &saved).unwrap();
    for driver in [&mut driver, &mut copy] {
        let raised = driver.irq.raised();
        driver.transport.resume().unwrap();
        assert_eq!(driver.irq.raised(), raised + 1);
        let causes = driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        assert_ne!(causes & VIRTIO_MMIO_INT_CONFIG, 0);
        assert_eq!(u64::from(config_u32(driver, 0)), SECTORS + 8);
    }
}

#[test]
fn a_driver_that_is_not_ready_gets_no_interrupt_for_a_new_size() {
    let image = image();
    let mut driver = Driver::new(open(&image, false));
    image.as_file().set_len((SECTORS + 8) * 512).unwrap();
    assert!(driver.transport.look_anew().unwrap());
    assert_eq!(driver.irq.raised(), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    let mut byte = [0];
    let capacity = u64::from(VIRTIO_MMIO_CONFIG);
    driver.transport.read(capacity, &mut byte);
    assert_eq!(u64::from(byte[0]), SECTORS + 8);
}

#[test]
fn a_serial_number_is_cut_between_characters() {
    let image = image();
    let disk = RawDisk::open(image.path(), false).unwrap();
    let block = Block::new(disk, "0123456789-disk-ca\u{e9}s");
    assert_eq!(block.id, *b"0123456789-disk-ca\xc3\xa9");
    let image = super::block_test::image();
    let disk = RawDisk::open(image.path(), false).unwrap();
    let block = Block::new(disk, "0123456789-disk-cas\u{e9}");
    assert_eq!(block.id, *b"0123456789-disk-cas\0");
}

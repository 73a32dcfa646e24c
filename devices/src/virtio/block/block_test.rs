use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use super::*;
use crate::BusDevice;
use crate::virtio::test_driver::*;

pub(crate) const SECTORS: u64 = 64;
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
pub(crate) const DATA: u64 = BUFFERS + 0x1000;
pub(crate) const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
pub(crate) const OK: u8 = VIRTIO_BLK_S_OK as u8;
pub(crate) const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
pub(crate) const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;
/// Status byte before the device writes it.
const NO_STATUS: u8 = 0xee;

/// An image in which every sector holds its number.
pub(crate) fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    file
}

pub(crate) fn open(image: &NamedTempFile, read_only: bool) -> Box<Block> {
    let options = BlockOptions {
        read_only,
        serial: "nvvm-disk".to_owned(),
    };
    Box::new(Block::open(image.path(), &options).unwrap())
}

fn driver(image: &NamedTempFile, read_only: bool) -> Driver {
    driver_of(open(image, read_only), FLUSH)
}

fn driver_of(block: Box<Block>, features: u64) -> Driver {
    let mut driver = Driver::new(block);
    driver.start(features);
    driver
}

fn store_header(driver: &Driver, kind: u32, sector: u64) {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&kind.to_le_bytes());
    header[8..16].copy_from_slice(&sector.to_le_bytes());
    driver.store(HEADER, &header);
    driver.store(STATUS, &[NO_STATUS]);
}

/// Does one request with the given data buffers and answers its status.
pub(crate) fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[TestBuffer]) -> u8 {
    store_header(driver, kind, sector);
    let mut buffers = vec![(HEADER, 16, false)];
    buffers.extend_from_slice(data);
    buffers.push((STATUS, 1, true));
    let reply_len: u32 = buffers
        .iter()
        .filter(|buffer| buffer.2)
        .map(|buffer| buffer.1)
        .sum();
    assert_eq!(driver.request(&buffers), reply_len);
    driver.load(STATUS, 1)[0]
}

pub(crate) fn on_disk(image: &NamedTempFile, sector: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    image
        .as_file()
        .read_exact_at(&mut bytes, sector * 512)
        .unwrap();
    bytes
}

#[test]
fn the_configuration_space_tells_the_size() {
    let image = image();
    let mut driver = driver(&image, false);
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG), SECTORS as u32);
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG + 4), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG + 12), 254);
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG + 20), 512);
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG + 60), 0);
    let mut byte = [0xaa];
    driver
        .transport
        .read(u64::from(VIRTIO_MMIO_CONFIG), &mut byte);
    assert_eq!(byte, [SECTORS as u8]);
    let mut last = [0xaa; 8];
    driver.transport.read(0x1fc, &mut last);
    assert_eq!(last, [0; 8]);
}

#[test]
fn what_is_written_is_on_the_disk_and_read_back() {
    let image = image();
    let mut driver = driver(&image, false);
    let written: Vec<u8> = (0..1024_u32).map(|byte| (byte % 251) as u8).collect();
    driver.store(DATA, &written[..700]);
    driver.store(HIGH_REGION + 3, &written[700..]);
    let parts = [(DATA, 700, false), (HIGH_REGION + 3, 324, false)];
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_OUT, 5, &parts), OK);
    assert_eq!(on_disk(&image, 5), written[..512]);
    assert_eq!(on_disk(&image, 6), written[512..]);
    assert_eq!(on_disk(&image, 4), [4; 512]);
    assert_eq!(on_disk(&image, 7), [7; 512]);

    let parts = [(DATA + 0x1000, 1, true), (DATA + 0x2000, 1535, true)];
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 4, &parts), OK);
    let mut read = driver.load(DATA + 0x1000, 1);
    read.extend(driver.load(DATA + 0x2000, 1535));
    assert_eq!(read[..512], [4; 512]);
    assert_eq!(read[512..], written);
    assert_eq!(driver.load(DATA + 0x1001, 1), [0]);
    assert_eq!(driver.load(DATA + 0x2000 + 1535, 1), [0]);
}

#[test]
fn header_and_status_may_share_buffers_with_data() {
    let image = image();
    let mut driver = driver(&image, false);
    store_header(&driver, VIRTIO_BLK_T_OUT, 9);
    driver.store(HEADER + 16, &[0x5a; 512]);
    assert_eq!(
        driver.request(&[
            (HEADER, 7, false),
            (HEADER + 7, 521, false),
            (DATA, 1, true)
        ]),
        1
    );
    assert_eq!(driver.load(DATA, 1), [OK]);
    assert_eq!(on_disk(&image, 9), [0x5a; 512]);
    store_header(&driver, VIRTIO_BLK_T_IN, 9);
    driver.store(DATA, &[NO_STATUS; 513]);
    assert_eq!(
        driver.request(&[(HEADER, 16, false), (DATA, 513, true)]),
        513
    );
    assert_eq!(driver.load(DATA, 512), [0x5a; 512]);
    assert_eq!(driver.load(DATA + 512, 1), [OK]);
}

#[test]
fn flush_and_identity_are_answered_and_other_requests_are_unsupported() {
    let image = image();
    let mut driver = driver(&image, false);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, true)]),
        OK
    );
    assert_eq!(driver.load(DATA, 20), *b"nvvm-disk\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 19, true)]),
        IOERR
    );
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &[(DATA, 16, false)]),
        UNSUPP
    );
    assert_eq!(request(&mut driver, u32::MAX, 0, &[]), UNSUPP);
    assert!(!driver.needs_reset());
}

/// A disk on /dev/null, which takes every write and refuses fdatasync(2): a flush that does not
/// reach the host succeeds.
fn driver_of_a_disk_that_cannot_sync(features: u64) -> Driver {
    let mut block = open(&image(), false);
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    block.disk.replace_file(null);
    driver_of(block, features)
}

#[test]
fn a_flush_reaches_the_host() {
    let mut driver = driver_of_a_disk_that_cannot_sync(FLUSH);
    let write = request(&mut driver, VIRTIO_BLK_T_OUT, 0, &[(DATA, 512, false)]);
    assert_eq!(write, OK, "not made stable by itself");
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), IOERR);
}

#[test]
fn a_write_of_a_driver_that_does_not_flush_reaches_the_host() {
    let mut driver = driver_of_a_disk_that_cannot_sync(0);
    let write = request(&mut driver, VIRTIO_BLK_T_OUT, 0, &[(DATA, 512, false)]);
    assert_eq!(write, IOERR, "it is stable when it is done, or fails");
}

#[test]
fn requests_beyond_the_disk_fail_and_change_nothing() {
    let image = image();
    let mut driver = driver(&image, false);
    driver.store(DATA, &[0xff; 2048]);
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
    ] {
        assert_eq!(
            request(&mut driver, VIRTIO_BLK_T_OUT, sector, &[(DATA, len, false)]),
            IOERR,
            "{sector}+{len}"
        );
        assert_eq!(
            request(&mut driver, VIRTIO_BLK_T_IN, sector, &[(DATA, len, true)]),
            IOERR,
            "{sector}+{len}"
        );
    }
    assert_eq!(on_disk(&image, 0), [0; 512]);
    assert_eq!(on_disk(&image, SECTORS - 1), [SECTORS as u8 - 1; 512]);
    assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
    assert_eq!(driver.load(DATA, 2048), [0xff; 2048]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_range_is_whole_sectors_within_the_disk() {
    let image = image();
    let disk = RawDisk::open(image.path(), true).unwrap();
    let range = |sector, len| request::byte_range(disk.size_bytes(), sector, len);
    assert_eq!(range(0, SECTORS * 512), Some(0));
    assert_eq!(range(SECTORS - 1, 512), Some((SECTORS - 1) * 512));
    assert_eq!(range(SECTORS, 0), Some(SECTORS * 512));
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS + 1, 0),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 0),
        (1, 256),
    ] {
        assert_eq!(range(sector, len), None, "{sector}+{len}");
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let image = image();
    let mut driver = driver(&image, true);
    assert_ne!(driver.offered_features() & (1 << VIRTIO_BLK_F_RO), 0);
    driver.store(DATA, &[0xff; 512]);
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_OUT, 1, &[(DATA, 512, false)]),
        IOERR
    );
    assert_eq!(on_disk(&image, 1), [1; 512]);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_IN, 1, &[(DATA, 512, true)]),
        OK
    );
    assert_eq!(driver.load(DATA, 512), [1; 512]);
}

#[test]
fn a_driver_that_does_not_flush_can_write() {
    let image = image();
    let mut driver = driver_of(open(&image, false), 0);
    driver.store(DATA, &[0x77; 512]);
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_OUT, 3, &[(DATA, 512, false)]),
        OK
    );
    assert_eq!(on_disk(&image, 3), [0x77; 512]);
}

#[test]
fn data_outside_memory_is_an_io_error() {
    let image = image();
    let mut driver = driver(&image, false);
    for address in [
        REGION_BYTES as u64,
        REGION_BYTES as u64 - 100,
        HIGH_REGION - 512,
        u64::MAX - 511,
    ] {
        assert_eq!(
            request(&mut driver, VIRTIO_BLK_T_IN, 1, &[(address, 512, true)]),
            IOERR,
            "{address:#x}"
        );
        assert_eq!(
            request(&mut driver, VIRTIO_BLK_T_OUT, 1, &[(address, 512, false)]),
            IOERR,
            "{address:#x}"
        );
    }
    assert_eq!(on_disk(&image, 1), [1; 512]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_short_or_unreadable_header_is_an_io_error() {
    let image = image();
    let mut driver = driver(&image, false);
    store_header(&driver, VIRTIO_BLK_T_FLUSH, 0);
    for header in [
        &[][..],
        &[(HEADER, 15, false)],
        &[(REGION_BYTES as u64, 16, false)],
    ] {
        driver.store(STATUS, &[NO_STATUS]);
        let mut buffers = header.to_vec();
        buffers.push((STATUS, 1, true));
        assert_eq!(driver.request(&buffers), 1);
        assert_eq!(driver.load(STATUS, 1), [IOERR], "{header:x?}");
    }
}

/// Puts descriptors into the table, makes the first one available, and expects the device to give
/// up until it is reset.
fn expect_needs_reset(name: &str, descriptors: &[(u64, u32, u16, u16)]) {
    let image = image();
    let mut driver = driver(&image, false);
    store_header(&driver, VIRTIO_BLK_T_IN, 0);
    for (index, &(address, len, flags, next)) in descriptors.iter().enumerate() {
        driver.write_desc(DESC_TABLE, index as u16, address, len, flags, next);
    }
    driver.submit_head(0);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset(), "{name}");
    assert!(driver.finished().is_empty(), "{name}");
    assert_eq!(driver.load(STATUS, 1), [NO_STATUS], "{name}");
    driver.start(FLUSH);
    let read = request(&mut driver, VIRTIO_BLK_T_IN, 2, &[(DATA, 512, true)]);
    assert_eq!(read, OK, "{name}");
}

#[test]
fn chains_that_cannot_be_answered_make_the_device_ask_for_a_reset() {
    let header = (HEADER, 16, NEXT, 1);
    expect_needs_reset("loop", &[header, (DATA, 512, NEXT | WRITE, 1)]);
    expect_needs_reset(
        "next out of the table",
        &[header, (DATA, 512, NEXT | WRITE, 64)],
    );
    let status = (STATUS, 1, WRITE, 0);
    expect_needs_reset("zero length", &[header, (DATA, 0, NEXT | WRITE, 2), status]);
    expect_needs_reset("no status", &[(HEADER, 16, 0, 0)]);
    expect_needs_reset(
        "status outside memory",
        &[header, (REGION_BYTES as u64, 1, WRITE, 0)],
    );
    let tail = (HEADER, 4, 0, 0);
    expect_needs_reset(
        "readable after writable",
        &[header, (STATUS, 1, NEXT | WRITE, 2), tail],
    );
    expect_needs_reset("indirect table of odd length", &[(DATA, 24, INDIRECT, 0)]);
    expect_needs_reset(
        "indirect table outside memory",
        &[(REGION_BYTES as u64, 32, INDIRECT, 0)],
    );
    expect_needs_reset("empty indirect table", &[(DATA, 0, INDIRECT, 0)]);
    let indirect_to_itself = (DESC_TABLE + 16, 16, INDIRECT, 0);
    expect_needs_reset(
        "indirect within indirect",
        &[indirect_to_itself, indirect_to_itself],
    );
    let long = u32::MAX;
    expect_needs_reset(
        "over 4 GiB",
        &[header, (DATA, long, NEXT | WRITE, 2), status],
    );
}

#[test]
fn a_head_out_of_the_table_makes_the_device_ask_for_a_reset() {
    let image = image();
    let mut driver = driver(&image, false);
    driver.submit_head(64);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset());
}

#[test]
fn an_indirect_chain_works() {
    let image = image();
    let mut driver = driver(&image, false);
    store_header(&driver, VIRTIO_BLK_T_IN, 8);
    let table = BUFFERS + 0x8000;
    driver.write_desc(table, 0, HEADER, 16, NEXT, 1);
    driver.write_desc(table, 1, DATA, 512, NEXT | WRITE, 2);
    driver.write_desc(table, 2, STATUS, 1, WRITE, 0);
    driver.write_desc(DESC_TABLE, 0, table, 48, INDIRECT, 0);
    driver.submit_head(0);
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished(), [(0, 513)]);
    assert_eq!(driver.load(DATA, 512), [8; 512]);
    assert_eq!(driver.load(STATUS, 1), [OK]);
}

#[test]
fn an_indirect_chain_longer_than_the_queue_is_refused() {
    let image = image();
    let mut driver = driver(&image, false);
    let table = BUFFERS + 0x8000;
    for index in 0..65 {
        let flags = if index == 64 { WRITE } else { NEXT | WRITE };
        driver.write_desc(table, index, DATA, 8, flags, index + 1);
    }
    driver.write_desc(DESC_TABLE, 0, table, 65 * 16, INDIRECT, 0);
    driver.submit_head(0);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset());
}

#[test]
fn an_image_that_cannot_be_a_disk_is_refused() {
    let options = BlockOptions::default();
    let failed = |path: &Path| Block::open(path, &options).err().unwrap();
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        failed(directory.path()),
        BlockError::NotADisk { .. }
    ));
    assert!(matches!(
        failed(&directory.path().join("none")),
        BlockError::Io { op: "open", .. }
    ));
    let empty = NamedTempFile::new().unwrap();
    assert!(matches!(
        failed(empty.path()),
        BlockError::Size { size_bytes: 0, .. }
    ));
    let odd = NamedTempFile::new().unwrap();
    odd.as_file().set_len(1000).unwrap();
    assert!(matches!(
        failed(odd.path()),
        BlockError::Size {
            size_bytes: 1000,
            ..
        }
    ));
    assert!(
        failed(odd.path())
            .remedy()
            .is_some_and(|remedy| remedy.contains("truncate"))
    );
}

#[test]
fn a_writable_disk_belongs_to_one_vm_and_a_read_only_one_can_be_shared() {
    let image = image();
    let writable = BlockOptions::default();
    let read_only = BlockOptions {
        read_only: true,
        ..BlockOptions::default()
    };
    let first = Block::open(image.path(), &writable).unwrap();
    assert!(matches!(
        Block::open(image.path(), &writable).err(),
        Some(BlockError::InUse { .. })
    ));
    assert!(matches!(
        Block::open(image.path(), &read_only).err(),
        Some(BlockError::InUse { .. })
    ));
    drop(first);
    let _first = Block::open(image.path(), &read_only).unwrap();
    let _second = Block::open(image.path(), &read_only).unwrap();
    assert!(matches!(
        Block::open(image.path(), &writable).err(),
        Some(BlockError::InUse { .. })
    ));
}

/// A buffer address that may be anywhere: in one of the regions, across an edge, in the rings, in
/// the hole, at the end of the address space.
fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => BUFFERS..BUFFERS + 0x4000,
        2 => HIGH_REGION..HIGH_REGION + 0x4000,
        1 => REGION_BYTES as u64 - 600..REGION_BYTES as u64 + 600,
        1 => HIGH_REGION - 600..HIGH_REGION + 600,
        1 => DESC_TABLE..USED_RING + 0x400,
        1 => any::<u64>(),
    ]
}

fn any_len() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(16_u32),
        2 => Just(1),
        4 => Just(512),
        1 => 0..2000_u32,
        1 => any::<u32>(),
    ]
}

/// Buffers of a request: the slot of each, its length, and true where the device may write it.
fn any_parts() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
    prop::collection::vec((0..32_u64, any_len(), any::<bool>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A driver may write anything into descriptors and registers: the device answers, fails or
    /// asks for a reset, and works after a reset.
    #[test]
    fn wild_rings_and_registers_do_no_harm(
        seed in prop::collection::vec(any::<u8>(), 64),
        table in prop::collection::vec((any_address(), any_len(), 0..8_u16, 0..70_u16), 1..64),
        heads in prop::collection::vec(0..66_u16, 1..40),
        registers in prop::collection::vec((0..0x210_u64, any::<u32>(), 0..9_usize), 0..24),
        event_idx in any::<bool>(),
    ) {
        let image = image();
        let mut driver = Driver::new(open(&image, false));
        driver.start(if event_idx { u64::MAX } else { !(1 << 29) });
        // Headers that often say something sensible.
        for slot in 0..64 {
            driver.store(BUFFERS + slot * 256, &u32::from(seed[slot as usize] % 16).to_le_bytes());
        }
        for (index, &(address, len, flags, next)) in table.iter().enumerate() {
            driver.write_desc(DESC_TABLE, index as u16, address, len, flags, next);
        }
        for head in heads {
            driver.submit_head(head);
        }
        driver.notify();
        driver.run_events();
        for (offset, value, len) in registers {
            let mut bytes = vec![0; len];
            driver.transport.read(offset, &mut bytes);
            driver.transport.write(offset, &value.to_le_bytes().repeat(2)[..len]);
            driver.notify();
            driver.run_events();
        }
        driver.start(FLUSH);
        prop_assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
        prop_assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
    }

    /// The device writes only to the used ring and to the buffers that are marked for it.
    #[test]
    fn only_writable_buffers_and_the_used_ring_change(
        requests in prop::collection::vec((0..16_u32, 0..70_u64, any_parts()), 1..10),
    ) {
        let image = image();
        let mut driver = driver_of(open(&image, false), u64::MAX);
        let arena = HIGH_REGION..HIGH_REGION + REGION_BYTES as u64;
        let mut expected = vec![0xa5; REGION_BYTES];
        driver.store(arena.start, &expected);
        for (kind, sector, parts) in requests {
            if driver.needs_reset() {
                break;
            }
            store_header(&driver, kind, sector);
            let mut buffers = vec![(HEADER, 16, false)];
            for (slot, len, writable) in parts {
                buffers.push((arena.start + slot * 0x8000, len, writable));
            }
            buffers.push((STATUS, 1, true));
            driver.submit(&buffers);
            driver.notify();
            driver.run_events();
            driver.finished();
            for &(address, len, writable) in &buffers {
                if writable && arena.contains(&address) {
                    let from = (address - arena.start) as usize;
                    let to = (from + len as usize).min(REGION_BYTES);
                    // The device may write anything here; all other bytes must be as before.
                    expected[from..to].copy_from_slice(&driver.load(address, to - from));
                }
            }
            prop_assert!(
                driver.load(arena.start, REGION_BYTES) == expected,
                "memory outside the buffers changed"
            );
        }
    }
}

//! A disk whose storage is no file.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::VolatileSlice;

use super::block_test::{DATA, FLUSH, IOERR, OK, request};
use super::{Block, DiskBackend, DiskError, DiskLimits};
use crate::Device;
use crate::virtio::test_driver::{BUFFERS, Driver};
use crate::virtio::worker::Signals;

/// A disk in memory.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicU32,
}

impl DiskBackend for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn find_size(&self) -> io::Result<u64> {
        Ok(self.size_bytes())
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits::USUAL
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn read_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        let bytes = self.bytes.lock().unwrap();
        let mut rest = &bytes[offset_bytes as usize..];
        for slice in slices {
            slice.copy_from(&rest[..slice.len()]);
            rest = &rest[slice.len()..];
        }
        Ok(())
    }

    fn write_at(&self, slices: &[VolatileSlice<'_>], offset_bytes: u64) -> Result<(), DiskError> {
        let mut bytes = self.bytes.lock().unwrap();
        let mut rest = &mut bytes[offset_bytes as usize..];
        for slice in slices {
            let (here, behind) = rest.split_at_mut(slice.len());
            slice.copy_to(here);
            rest = behind;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> Result<(), DiskError> {
        self.bytes.lock().unwrap()[offset as usize..][..len as usize].fill(0);
        Ok(())
    }
}

#[test]
fn a_disk_is_served_by_any_backend() {
    let disk = Arc::new(Memory {
        bytes: Mutex::new(vec![7; 4096]),
        flushes: AtomicU32::new(0),
    });
    let mut driver = Driver::new(Box::new(Block::new(Arc::clone(&disk), "memory")));
    driver.start(FLUSH);
    driver.store(DATA, &[9; 512]);
    let write = request(&mut driver, VIRTIO_BLK_T_OUT, 7, &[(DATA, 512, false)]);
    assert_eq!(write, OK);
    assert_eq!(disk.bytes.lock().unwrap()[7 * 512 - 1..7 * 512 + 1], [7, 9]);
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 0);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 1);
    let read = request(&mut driver, VIRTIO_BLK_T_IN, 6, &[(DATA, 1024, true)]);
    assert_eq!(read, OK);
    assert_eq!(driver.load(DATA, 1024)[511..513], [7, 9]);
    let beyond = request(&mut driver, VIRTIO_BLK_T_IN, 8, &[(DATA, 512, true)]);
    assert_eq!(beyond, IOERR);
}

/// Storage whose first read lasts until the device is to be paused.
struct Slow {
    reads: AtomicU32,
    first: Mutex<Option<(Sender<()>, Arc<Signals>)>>,
}

impl DiskBackend for Slow {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn find_size(&self) -> io::Result<u64> {
        Ok(self.size_bytes())
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits::USUAL
    }

    fn name(&self) -> String {
        "slow".to_owned()
    }

    fn read_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), DiskError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if let Some((began, signals)) = self.first.lock().unwrap().take() {
            began.send(()).unwrap();
            while !signals.pausing.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        Ok(())
    }

    fn write_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), DiskError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<(), DiskError> {
        Ok(())
    }
}

fn slow() -> Arc<Slow> {
    Arc::new(Slow {
        reads: AtomicU32::new(0),
        first: Mutex::new(None),
    })
}

#[test]
fn a_pause_waits_for_one_request_and_leaves_the_others_in_the_ring() {
    const REQUESTS: u32 = 12;
    let disk = slow();
    let mut driver = Driver::new(Box::new(Block::new(Arc::clone(&disk), "slow")));
    driver.start(FLUSH);
    for slot in 0..u64::from(REQUESTS) {
        let header = BUFFERS + slot * 0x1000;
        driver.store(header, &VIRTIO_BLK_T_IN.to_le_bytes());
        let buffers = [
            (header, 16, false),
            (header + 0x400, 512, true),
            (header + 0x20, 1, true),
        ];
        driver.submit(&buffers);
    }
    let (began, begins) = channel();
    *disk.first.lock().unwrap() = Some((began, Arc::clone(&driver.transport.signals)));
    let subscriber = driver.transport.subscriber();
    driver.notify();
    let serving = thread::spawn(move || {
        let mut events = EventManager::<Box<dyn MutEventSubscriber + Send>>::new().unwrap();
        events.add_subscriber(Box::new(subscriber));
        events.run().unwrap();
    });
    begins.recv().unwrap();
    let saved = driver.save_paused();
    serving.join().unwrap();
    assert_eq!(disk.reads.load(Ordering::SeqCst), 1);
    assert_eq!(driver.finished().len(), 1);

    let copied = slow();
    let device = Box::new(Block::new(Arc::clone(&copied), "slow"));
    let mut copy = driver.restore_copy(device, &saved).unwrap();
    for driver in [&mut driver, &mut copy] {
        driver.transport.resume().unwrap();
        driver.run_events();
    }
    assert_eq!(disk.reads.load(Ordering::SeqCst), REQUESTS);
    assert_eq!(copied.reads.load(Ordering::SeqCst), REQUESTS - 1);
}

use std::cell::Cell;

use vm_memory::bitmap::{AtomicBitmap, BS, Bitmap};
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    MmapRegion, Permissions,
};

use super::*;
use crate::CountingIrq;
use crate::virtio::queue::QueueRegisters;
use crate::virtio::test_driver::*;
use crate::virtio::{Block, BlockOptions, Rng};

/// Memory in which the driver makes a request available just before the device reads the available
/// index for the n-th time.
struct Overtaking {
    memory: Arc<Memory>,
    reads_before: Cell<u32>,
}

impl GuestMemory for Overtaking {
    type PhysicalMemory = Memory;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        GuestMemory::check_range(&*self.memory, address, count, access)
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, ()>>, GuestMemoryError> {
        if address.0 == AVAIL_RING + 2 {
            if self.reads_before.get() == 0 {
                self.memory.write_obj(1_u16.to_le(), address)?;
            }
            self.reads_before
                .set(self.reads_before.get().wrapping_sub(1));
        }
        GuestMemory::get_slices(&*self.memory, address, count, access)
    }
}

#[test]
fn a_request_that_comes_after_the_last_look_at_the_ring_is_not_forgotten() {
    let driver = Driver::new(Box::new(Rng::new()));
    driver.write_desc(DESC_TABLE, 0, BUFFERS, 16, WRITE, 0);
    let memory = Overtaking {
        memory: Arc::clone(&driver.memory),
        reads_before: Cell::new(1),
    };
    let registers = QueueRegisters {
        desc_table: DESC_TABLE,
        avail_ring: AVAIL_RING,
        used_ring: USED_RING,
        ..QueueRegisters::new(16)
    };
    let mut queue = registers.build(0, 0, false).unwrap();
    let signals = Signals::new(Arc::new(CountingIrq::default()));
    let mut serve = || serve_ring(&mut Rng::new(), &memory, &mut queue, 0, &signals).unwrap();
    assert!(serve(), "the ring was empty, and then was not");
    assert!(!serve());
    assert_ne!(driver.load(BUFFERS, 16), [0; 16]);
}

#[test]
fn memory_that_a_disk_is_read_into_is_marked_dirty_and_no_other() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let ranges = [(GuestAddress(0), REGION_BYTES)];
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    // A read of 8 KiB, from sector 0 on.
    let (data, status) = (BUFFERS + 0x2000, BUFFERS + 0x8000);
    let chain = [
        (BUFFERS, 16, NEXT, 1),
        (data, 8192, NEXT | WRITE, 2),
        (status, 1, WRITE, 0),
    ];
    for (index, (address, len, flags, next)) in (0..).zip(chain) {
        let at = GuestAddress(DESC_TABLE + index * 16);
        memory.write_obj(address, at).unwrap();
        memory
            .write_obj::<u32>(len, GuestAddress(at.0 + 8))
            .unwrap();
        memory
            .write_obj::<u16>(flags, GuestAddress(at.0 + 12))
            .unwrap();
        memory
            .write_obj::<u16>(next, GuestAddress(at.0 + 14))
            .unwrap();
    }
    memory
        .write_obj(1_u16, GuestAddress(AVAIL_RING + 2))
        .unwrap();
    memory
        .write_obj([0xff_u8; 1], GuestAddress(status))
        .unwrap();
    let region: &MmapRegion<AtomicBitmap> = memory.iter().next().unwrap();
    let bitmap = region.bitmap();
    for offset in (0..REGION_BYTES).step_by(4096) {
        bitmap.reset_addr_range(offset, 4096);
    }
    let mut block = Block::open(image.path(), &BlockOptions::default()).unwrap();
    let registers = QueueRegisters {
        desc_table: DESC_TABLE,
        avail_ring: AVAIL_RING,
        used_ring: USED_RING,
        ..QueueRegisters::new(16)
    };
    let mut queue = registers.build(0, 0, false).unwrap();
    let signals = Signals::new(Arc::new(CountingIrq::default()));
    serve_ring(&mut block, &memory, &mut queue, 0, &signals).unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(status)).unwrap(), 0);
    let pages = (0..REGION_BYTES).step_by(4096);
    let dirty: Vec<u64> = pages
        .filter(|&page| bitmap.dirty_at(page))
        .map(|page| page as u64)
        .collect();
    assert_eq!(dirty, [USED_RING, data, data + 4096, status]);
}

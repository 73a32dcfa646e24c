use std::cell::Cell;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};

use super::*;
use crate::CountingIrq;
use crate::virtio::Rng;
use crate::virtio::queue::QueueRegisters;
use crate::virtio::test_driver::*;

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

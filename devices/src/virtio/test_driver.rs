//! A driver for tests: finds, sets up and uses a virtio-mmio device the way Linux does, through
//! registers and rings.

use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{MmioTransport, VirtioDevice};
use crate::{BusDevice, CountingIrq, Device, LifecycleError, SavedDevice};

pub(super) type Memory = GuestMemoryMmap<()>;

pub(super) const REGION_BYTES: usize = 1 << 20;
/// A second region of RAM, with a hole between it and the first.
pub(super) const HIGH_REGION: u64 = 4 << 20;
pub(super) const DESC_TABLE: u64 = 0x1000;
pub(super) const AVAIL_RING: u64 = 0x2000;
pub(super) const USED_RING: u64 = 0x3000;
/// Distance of the rings of one queue from those of the next.
const QUEUE_DISTANCE: u64 = 0x4000;
/// Queues that there is room for below the buffers.
const QUEUES_MAX: usize = 4;
/// Address of the tests' buffers.
pub(super) const BUFFERS: u64 = 0x10000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Both sides of a virtio device: the machine with its event loop, and the driver in the guest.
pub(super) struct Driver {
    pub(super) memory: Arc<Memory>,
    pub(super) transport: MmioTransport<Arc<Memory>>,
    pub(super) irq: Arc<CountingIrq>,
    events: EventManager<Box<dyn MutEventSubscriber + Send>>,
    rings: [RingPosition; QUEUES_MAX],
    /// The queue that everything is about.
    queue: usize,
}

#[derive(Clone, Copy, Default)]
struct RingPosition {
    queue_size: u16,
    next_desc: u16,
    avail_index: u16,
    used_index: u16,
}

/// One buffer of a request: address, length, and whether the device writes it.
pub(super) type TestBuffer = (u64, u32, bool);

pub(super) fn new_memory() -> Arc<Memory> {
    let ranges = [
        (GuestAddress(0), REGION_BYTES),
        (GuestAddress(HIGH_REGION), REGION_BYTES),
    ];
    Arc::new(Memory::from_ranges(&ranges).unwrap())
}

fn copy_memory(from: &Memory) -> Arc<Memory> {
    let copy = new_memory();
    for base in [0, HIGH_REGION] {
        let mut bytes = vec![0; REGION_BYTES];
        from.read_slice(&mut bytes, GuestAddress(base)).unwrap();
        copy.write_slice(&bytes, GuestAddress(base)).unwrap();
    }
    copy
}

impl Driver {
    pub(super) fn new(device: Box<dyn VirtioDevice<Memory>>) -> Self {
        Self::with_memory(device, new_memory())
    }

    fn with_memory(device: Box<dyn VirtioDevice<Memory>>, memory: Arc<Memory>) -> Self {
        let irq = Arc::new(CountingIrq::default());
        let transport =
            MmioTransport::new("dev0", device, Arc::clone(&memory), irq.clone()).unwrap();
        let mut events: EventManager<Box<dyn MutEventSubscriber + Send>> =
            EventManager::new().unwrap();
        events.add_subscriber(Box::new(transport.subscriber()));
        Self {
            memory,
            transport,
            irq,
            events,
            rings: Default::default(),
            queue: 0,
        }
    }

    /// Selects queue `queue` for the next steps.
    pub(super) fn on(&mut self, queue: usize) -> &mut Self {
        self.queue = queue;
        self
    }

    fn ring(&mut self) -> &mut RingPosition {
        &mut self.rings[self.queue]
    }

    /// Address of the part of the queue's rings that queue 0 has at `address`.
    fn at(&self, address: u64) -> u64 {
        address + self.queue as u64 * QUEUE_DISTANCE
    }

    /// Another machine with a copy of this one's memory, restored from `saved`, still paused.
    pub(super) fn restore_copy(
        &self,
        device: Box<dyn VirtioDevice<Memory>>,
        saved: &SavedDevice,
    ) -> Result<Self, LifecycleError> {
        let mut copy = Self::with_memory(device, copy_memory(&self.memory));
        copy.rings = self.rings;
        copy.transport.restore(saved)?;
        Ok(copy)
    }

    pub(super) fn read(&mut self, register: u32) -> u32 {
        let mut word = [0; 4];
        self.transport.read(u64::from(register), &mut word);
        u32::from_le_bytes(word)
    }

    pub(super) fn write(&mut self, register: u32, value: u32) {
        self.transport
            .write(u64::from(register), &value.to_le_bytes());
    }

    pub(super) fn add_status(&mut self, bits: u32) -> u32 {
        let status = self.read(VIRTIO_MMIO_STATUS);
        self.write(VIRTIO_MMIO_STATUS, status | bits);
        self.read(VIRTIO_MMIO_STATUS)
    }

    pub(super) fn offered_features(&mut self) -> u64 {
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        let high = self.read(VIRTIO_MMIO_DEVICE_FEATURES);
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        u64::from(high) << 32 | u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
    }

    pub(super) fn accept_features(&mut self, features: u64) {
        self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> 32) as u32);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES, features as u32);
    }

    /// From reset to FEATURES_OK, with VERSION_1 and those of `wanted` that are offered.
    pub(super) fn negotiate(&mut self, wanted: u64) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        let offered = self.offered_features();
        self.accept_features(offered & (wanted | 1 << VIRTIO_F_VERSION_1));
        assert_ne!(
            self.add_status(VIRTIO_CONFIG_S_FEATURES_OK) & VIRTIO_CONFIG_S_FEATURES_OK,
            0
        );
    }

    pub(super) fn write_queue_registers(&mut self, size: u32, desc: u64, avail: u64, used: u64) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, self.queue as u32);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        let low_high = [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, desc),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail),
            (VIRTIO_MMIO_QUEUE_USED_LOW, used),
        ];
        for (register, address) in low_high {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
    }

    pub(super) fn set_up_queue(&mut self, size: u16) {
        let [desc, avail, used] =
            [DESC_TABLE, AVAIL_RING, USED_RING].map(|address| self.at(address));
        self.write_queue_registers(u32::from(size), desc, avail, used);
        for address in [avail, used] {
            self.memory
                .write_slice(&[0; 0x900], GuestAddress(address))
                .unwrap();
        }
        *self.ring() = RingPosition {
            queue_size: size,
            ..RingPosition::default()
        };
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(self.read(VIRTIO_MMIO_QUEUE_READY), 1);
    }

    /// The whole way to a working device with one queue.
    pub(super) fn start(&mut self, wanted_features: u64) {
        self.start_queues(wanted_features, 1);
    }

    /// The whole way to a working device.
    pub(super) fn start_queues(&mut self, wanted_features: u64, queues: usize) {
        self.negotiate(wanted_features);
        for queue in (0..queues).rev() {
            self.on(queue).set_up_queue(64);
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    }

    pub(super) fn write_desc(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(table + u64::from(index) * 16))
            .unwrap();
    }

    /// The head that the next request will have.
    pub(super) fn next_head(&mut self) -> u16 {
        let ring = self.ring();
        ring.next_desc % ring.queue_size
    }

    /// Puts a request into the ring, without a notification. Answers its head.
    pub(super) fn submit(&mut self, buffers: &[TestBuffer]) -> u16 {
        let size = self.ring().queue_size;
        let head = self.next_head();
        for (position, &(address, len, device_writes)) in buffers.iter().enumerate() {
            let index = self.ring().next_desc % size;
            self.ring().next_desc = index + 1;
            let mut flags = if device_writes { WRITE } else { 0 };
            if position + 1 < buffers.len() {
                flags |= NEXT;
            }
            self.write_desc(
                self.at(DESC_TABLE),
                index,
                address,
                len,
                flags,
                (index + 1) % size,
            );
        }
        self.submit_head(head);
        head
    }

    /// Makes a chain available whose descriptors are written already.
    pub(super) fn submit_head(&mut self, head: u16) {
        let ring = *self.ring();
        let slot = u64::from(ring.avail_index % ring.queue_size);
        self.memory
            .write_obj(
                head.to_le(),
                GuestAddress(self.at(AVAIL_RING) + 4 + slot * 2),
            )
            .unwrap();
        self.ring().avail_index = ring.avail_index.wrapping_add(1);
        self.set_avail_index(ring.avail_index.wrapping_add(1));
    }

    pub(super) fn set_avail_index(&self, index: u16) {
        self.memory
            .write_obj(index.to_le(), GuestAddress(self.at(AVAIL_RING) + 2))
            .unwrap();
    }

    pub(super) fn set_used_event(&self, index: u16) {
        let offset = 4 + u64::from(self.rings[self.queue].queue_size) * 2;
        self.memory
            .write_obj(index.to_le(), GuestAddress(self.at(AVAIL_RING) + offset))
            .unwrap();
    }

    /// Notifies the device through its register.
    pub(super) fn notify(&mut self) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, self.queue as u32);
    }

    /// Runs the machine's event loop until it has nothing to do.
    pub(super) fn run_events(&mut self) {
        self.count_events();
    }

    /// The same. Gives the number of events.
    pub(super) fn count_events(&mut self) -> usize {
        let mut handled = 0;
        loop {
            match self.events.run_with_timeout(0).unwrap() {
                0 => return handled,
                now => handled += now,
            }
        }
    }

    /// Lets the machine's event loop handle what is ready now.
    pub(super) fn run_one_turn(&mut self) {
        self.events.run_with_timeout(0).unwrap();
    }

    /// Requests that the device has finished since the last call: head and written length of each.
    pub(super) fn finished(&mut self) -> Vec<(u32, u32)> {
        let used = self.at(USED_RING);
        let index: u16 = u16::from_le(self.memory.read_obj(GuestAddress(used + 2)).unwrap());
        let mut finished = Vec::new();
        while self.ring().used_index != index {
            let ring = *self.ring();
            let slot = u64::from(ring.used_index % ring.queue_size);
            let entry: [u32; 2] = self
                .memory
                .read_obj(GuestAddress(used + 4 + slot * 8))
                .unwrap();
            finished.push((u32::from_le(entry[0]), u32::from_le(entry[1])));
            self.ring().used_index = ring.used_index.wrapping_add(1);
        }
        finished
    }

    /// Submits, notifies, waits and answers how many bytes the device says it wrote.
    pub(super) fn request(&mut self, buffers: &[TestBuffer]) -> u32 {
        let head = self.submit(buffers);
        self.notify();
        self.run_events();
        let finished = self.finished();
        assert_eq!(finished.len(), 1, "one request was submitted");
        assert_eq!(finished[0].0, u32::from(head));
        finished[0].1
    }

    pub(super) fn load(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub(super) fn store(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(super) fn needs_reset(&mut self) -> bool {
        self.read(VIRTIO_MMIO_STATUS) & virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET
            != 0
    }

    pub(super) fn save_paused(&mut self) -> SavedDevice {
        self.transport.pause().unwrap();
        self.transport.save().unwrap()
    }
}

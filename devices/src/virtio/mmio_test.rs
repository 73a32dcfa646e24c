use event_manager::MutEventSubscriber;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::test_driver::*;
use crate::virtio::{Chain, ChainError, Rng, Served};
use crate::{Bus, CountingIrq, Device, LifecycleError, SavedDevice};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const BUFFER: TestBuffer = (BUFFERS, 16, true);

fn rng_driver() -> Driver {
    Driver::new(Box::new(Rng::new()))
}

#[test]
fn a_driver_finds_and_starts_the_device_as_linux_does() {
    let mut driver = rng_driver();
    assert_eq!(driver.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(
        driver.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE),
        VIRTIO_CONFIG_S_ACKNOWLEDGE
    );
    driver.add_status(VIRTIO_CONFIG_S_DRIVER);
    let offered = driver.offered_features();
    assert_eq!(
        offered,
        VERSION_1 | EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    );
    driver.accept_features(offered);
    assert_eq!(driver.add_status(VIRTIO_CONFIG_S_FEATURES_OK), 0b1011);

    driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(
        driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX),
        0,
        "there is no second queue"
    );
    driver.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    driver.set_up_queue(64);
    assert_eq!(driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK), 0b1111);

    assert_eq!(driver.request(&[BUFFER]), 16);
    assert_eq!(
        driver.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );
    assert_eq!(driver.irq.raised(), 1);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_machine_holds_one_transport_as_bus_device_as_lifecycle_device_and_as_subscriber() {
    let memory = new_memory();
    let line = Arc::new(CountingIrq::default());
    let transport = MmioTransport::new("rng0", Box::new(Rng::new()), memory, line).unwrap();
    let _subscriber: Box<dyn MutEventSubscriber + Send> = Box::new(transport.subscriber());
    let transport = Arc::new(Mutex::new(transport));
    let device: Arc<Mutex<dyn Device>> = transport.clone();
    let mut bus = Bus::new();
    bus.insert("rng0", 0xd000_0000, MMIO_LEN, transport)
        .unwrap();
    let bus = Arc::new(bus);
    let vcpu = std::thread::spawn(move || {
        let mut word = [0; 4];
        assert!(bus.read(0xd000_0000, &mut word));
        word
    });
    assert_eq!(&vcpu.join().unwrap(), b"virt");
    assert_eq!(device.lock().unwrap().instance(), "rng0");
}

#[test]
fn a_notification_works_through_the_register_and_through_the_eventfd() {
    let mut driver = rng_driver();
    driver.start(0);
    driver.submit(&[BUFFER]);
    driver.run_events();
    assert!(driver.finished().is_empty(), "not notified yet");
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished().len(), 1);

    driver.submit(&[BUFFER]);
    driver.transport.queue_events()[0].write(1).unwrap();
    driver.run_events();
    assert_eq!(driver.finished().len(), 1);

    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 7);
    driver.run_events();
    assert!(
        !driver.needs_reset(),
        "a notification for a queue that is not there is ignored"
    );
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for features in [VERSION_1 | 1 << VIRTIO_BLK_F_FLUSH, EVENT_IDX, 0] {
        let mut driver = rng_driver();
        driver.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        driver.accept_features(features);
        assert_eq!(
            driver.add_status(VIRTIO_CONFIG_S_FEATURES_OK),
            0b11,
            "{features:#x}"
        );
        assert_eq!(
            driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK),
            0b11,
            "{features:#x}"
        );
    }
}

#[test]
fn features_are_fixed_once_accepted() {
    let mut driver = rng_driver();
    driver.negotiate(0);
    driver.accept_features(VERSION_1 | EVENT_IDX);
    assert_eq!(driver.transport.registers.driver_features, VERSION_1);
}

#[test]
fn status_bits_are_set_in_order_and_cleared_by_reset_only() {
    let mut driver = rng_driver();
    assert_eq!(driver.add_status(VIRTIO_CONFIG_S_DRIVER), 0);
    assert_eq!(driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK), 0);
    driver.negotiate(0);
    driver.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0b1011);
    assert_eq!(
        driver.add_status(VIRTIO_CONFIG_S_FAILED),
        0b1011 | VIRTIO_CONFIG_S_FAILED
    );
    driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_queue_with_an_impossible_size_or_alignment_does_not_become_ready() {
    let cases = [
        (0, DESC_TABLE, AVAIL_RING, USED_RING),
        (3, DESC_TABLE, AVAIL_RING, USED_RING),
        (128, DESC_TABLE, AVAIL_RING, USED_RING),
        (0x1_0040, DESC_TABLE, AVAIL_RING, USED_RING),
        (64, DESC_TABLE + 8, AVAIL_RING, USED_RING),
        (64, DESC_TABLE, AVAIL_RING + 1, USED_RING),
        (64, DESC_TABLE, AVAIL_RING, USED_RING + 2),
    ];
    for (size, desc, avail, used) in cases {
        let mut driver = rng_driver();
        driver.negotiate(0);
        driver.write_queue_registers(size, desc, avail, used);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(
            driver.read(VIRTIO_MMIO_QUEUE_READY),
            0,
            "size {size} at {desc:#x} {avail:#x} {used:#x}"
        );
    }
}

#[test]
fn a_queue_outside_memory_makes_the_device_ask_for_a_reset() {
    for (desc, avail, used) in [
        (REGION_BYTES as u64, AVAIL_RING, USED_RING),
        (DESC_TABLE, REGION_BYTES as u64 - 8, USED_RING),
        (DESC_TABLE, AVAIL_RING, u64::MAX - 3),
        (u64::MAX - 15, AVAIL_RING, USED_RING),
    ] {
        let mut driver = rng_driver();
        driver.negotiate(0);
        driver.write_queue_registers(64, desc, avail, used);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        assert!(driver.needs_reset(), "{desc:#x} {avail:#x} {used:#x}");
        assert_ne!(
            driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG,
            0
        );
        assert_eq!(driver.irq.raised(), 1);
        driver.start(0);
        assert!(!driver.needs_reset());
        assert_eq!(driver.request(&[BUFFER]), 16);
    }
}

#[test]
fn a_queue_in_use_cannot_be_changed_but_can_be_disabled() {
    let mut driver = rng_driver();
    driver.start(0);
    driver.write_queue_registers(32, 0, 0, 0);
    assert_eq!(driver.request(&[BUFFER]), 16);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.submit(&[BUFFER]);
    driver.notify();
    driver.run_events();
    assert!(driver.finished().is_empty());
    driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(
        driver.read(VIRTIO_MMIO_QUEUE_READY),
        0,
        "not before the next reset"
    );
}

#[test]
fn a_ready_queue_cannot_be_changed_before_the_driver_is_ready_either() {
    let mut driver = rng_driver();
    driver.negotiate(0);
    driver.set_up_queue(64);
    driver.write_queue_registers(32, DESC_TABLE + 0x400, 0, 0);
    driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert_eq!(driver.request(&[BUFFER]), 16);
}

#[test]
fn reset_stops_the_device_and_it_can_be_started_again() {
    let mut driver = rng_driver();
    driver.start(EVENT_IDX);
    driver.set_used_event(0);
    assert_eq!(driver.request(&[BUFFER]), 16);
    driver.submit(&[BUFFER]);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    driver.notify();
    driver.run_events();
    assert!(
        driver.finished().is_empty(),
        "a device in reset serves nothing"
    );
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.start(0);
    assert_eq!(driver.request(&[BUFFER]), 16);
}

#[test]
fn with_event_idx_the_driver_is_interrupted_when_it_asked_to_be() {
    let mut driver = rng_driver();
    driver.start(EVENT_IDX);
    driver.set_used_event(2);
    driver.request(&[BUFFER]);
    driver.request(&[BUFFER]);
    assert_eq!(driver.irq.raised(), 0);
    driver.request(&[BUFFER]);
    assert_eq!(driver.irq.raised(), 1);
    driver.request(&[BUFFER]);
    assert_eq!(driver.irq.raised(), 1);
}

#[test]
fn a_full_ring_is_served_and_signalled_on_the_way() {
    let mut driver = rng_driver();
    driver.start(0);
    for _ in 0..64 {
        driver.submit(&[BUFFER]);
    }
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished().len(), 64);
    assert_eq!(driver.irq.raised(), 2);
}

/// A device during whose work the driver makes one more request available: entry 64 of a ring of
/// 64, the same chain as entry 0.
struct Overtaken {
    requests: u32,
}

impl VirtioDevice<Memory> for Overtaken {
    fn kind(&self) -> &'static str {
        "overtaken"
    }
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }
    fn read_config(&self, _offset: u64, _bytes: &mut [u8]) {}
    fn activate(&mut self, _driver_features: u64) {}
    fn serve(
        &mut self,
        _queue_index: usize,
        _chain: Chain,
        mem: &Memory,
    ) -> Result<Served, ChainError> {
        self.requests += 1;
        mem.write_obj(65_u16.to_le(), GuestAddress(AVAIL_RING + 2))
            .unwrap();
        Ok(Served::Done(self.requests))
    }
    fn reset(&mut self) {}
    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        SavedDevice::encode("overtaken", 1, instance, &self.requests)
    }
    fn restore(&mut self, _instance: &str, _saved: &SavedDevice) -> Result<(), LifecycleError> {
        Ok(())
    }
}

#[test]
fn requests_that_come_while_a_full_ring_is_served_are_served_in_the_next_turn() {
    let mut driver = Driver::new(Box::new(Overtaken { requests: 0 }));
    driver.start(0);
    for _ in 0..64 {
        driver.submit(&[BUFFER]);
    }
    driver.notify();
    driver.run_one_turn();
    assert_eq!(
        driver.finished().len(),
        64,
        "other devices get their turn after one ring full"
    );
    driver.run_events();
    assert_eq!(driver.finished(), [(0, 65)]);
}

#[test]
fn more_available_entries_than_the_ring_has_make_the_device_ask_for_a_reset() {
    let mut driver = rng_driver();
    driver.start(0);
    driver.set_avail_index(65);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset());
    assert!(driver.finished().is_empty());
    driver.start(0);
    assert_eq!(driver.request(&[BUFFER]), 16);
}

#[test]
fn registers_answer_32_bit_accesses_only() {
    let mut driver = rng_driver();
    let mut byte = [0xaa];
    driver.transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
    let mut wide = [0xaa; 8];
    driver.transport.read(0, &mut wide);
    assert_eq!(wide, [0; 8]);
    driver.transport.write(u64::from(VIRTIO_MMIO_STATUS), &[1]);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_HIGH), u32::MAX);
    assert_eq!(driver.read(0x7c), 0);
}

//! A virtio device behind its MMIO registers, the machine around it, and the steps of the guest
//! that drives it.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventManager, SubscriberOps};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nvvmm_devices::virtio::{
    Block, BlockOptions, DiskRate, MMIO_LEN, MmioTransport, Pmem, PmemBacking, PmemRange,
    QueueSubscriber, Rng, VirtioDevice,
};
use nvvmm_devices::{BusDevice, CountingIrq, Device};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{balloon, network, vsock};
use crate::script::Script;

type Memory = GuestMemoryMmap<()>;

const INSTANCE: &str = "dev0";

/// Size of each of two regions of RAM with a hole between them.
const REGION_BYTES: usize = 0x1_0000;
const HIGH_REGION: u64 = 0x2_0000;
/// Addresses at which a correct driver puts its rings.
const DESC_TABLE: u64 = 0x1000;
const AVAIL_RING: u64 = 0x3000;
const USED_RING: u64 = 0x4000;
/// Distance of the rings of one queue from those of the next.
const QUEUE_DISTANCE: u64 = 0x400;
const QUEUES_MAX: usize = 4;
/// Queues of a disk.
const DISK_QUEUES: usize = 3;
const BUFFERS: u64 = 0x8000;
/// Address of a vsock packet, with room behind it.
const PACKET: u64 = HIGH_REGION;
/// Ring size of this layout. The device may have been given another one.
const RING_SIZE: u16 = 64;
const DISK_BYTES: usize = 0x4000;
const PMEM: PmemRange = PmemRange {
    gpa: 1 << 40,
    size_bytes: 1 << 24,
};

/// Turns of the event loop in one run.
const TURNS_MAX: usize = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Kinds of devices that the guest drives.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Disk {
        read_only: bool,
    },
    /// A disk that is limited to the smallest rates.
    SlowDisk,
    Rng,
    Vsock,
    Balloon,
    /// A network card, which may be limited to few frames.
    Net {
        limited: bool,
    },
    /// A pmem device. It has memory in its slot until it is reset, or never.
    Pmem {
        shown: bool,
    },
}

impl Kind {
    fn device(self, network: &mut Option<network::Network>) -> Box<dyn VirtioDevice<Memory>> {
        match self {
            Kind::Rng => Box::new(Rng::new()),
            Kind::Vsock => Box::new(vsock::device()),
            Kind::Balloon => Box::new(balloon::device()),
            Kind::Net { limited } => {
                let (card, other) = network::card(limited);
                *network = Some(other);
                Box::new(card)
            }
            Kind::Pmem { shown } => {
                let slot = Arc::new(PmemBacking::new(Arc::new(|| {})));
                if shown {
                    slot.offer(PMEM);
                }
                Box::new(Pmem::new(slot))
            }
            Kind::Disk { read_only } => Box::new(disk(read_only)),
            Kind::SlowDisk => {
                let rate = DiskRate {
                    bytes_per_s: NonZeroU64::new(512),
                    requests_per_s: NonZeroU64::new(2),
                };
                Box::new(disk(false).with_rate(rate).expect("a timer"))
            }
        }
    }

    fn is_disk(self) -> bool {
        matches!(self, Kind::Disk { .. } | Kind::SlowDisk)
    }
}

/// Queue that a byte names. The last few bytes name the last queue, too, which most devices do not
/// have.
fn queue_of(byte: u8) -> usize {
    match byte {
        0xfc.. => usize::from(byte) % QUEUES_MAX,
        _ => usize::from(byte) % DISK_QUEUES,
    }
}

fn disk(read_only: bool) -> Block {
    let options = BlockOptions {
        read_only,
        serial: "disk".into(),
    };
    let path = IMAGE.with(|image| PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd())));
    let disk = Block::open(&path, &options).expect("the image of the disk");
    disk.with_queues(DISK_QUEUES)
}

thread_local! {
    /// Of each thread, as a disk locks it.
    static IMAGE: File = {
        let image = memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).expect("a memory file");
        let image = File::from(image);
        image.set_len(DISK_BYTES as u64).expect("room in memory");
        image
    };
}

/// Memory of a guest, filled with zeros.
pub(crate) fn memory() -> Arc<Memory> {
    let ranges = [
        (GuestAddress(0), REGION_BYTES),
        (GuestAddress(HIGH_REGION), REGION_BYTES),
    ];
    Arc::new(Memory::from_ranges(&ranges).expect("guest memory"))
}

/// A machine with one device.
pub(crate) struct Machine {
    pub(crate) transport: MmioTransport<Arc<Memory>>,
    pub(crate) events: EventManager<QueueSubscriber<Arc<Memory>>>,
    irq: Arc<CountingIrq>,
    /// The other side of a network card.
    network: Option<network::Network>,
}

impl Machine {
    pub(crate) fn new(kind: Kind, instance: &str, memory: &Arc<Memory>) -> Self {
        let irq = Arc::new(CountingIrq::default());
        let mut network = None;
        let device = kind.device(&mut network);
        let transport = MmioTransport::new(instance, device, Arc::clone(memory), irq.clone())
            .expect("a transport");
        let mut events = EventManager::new().expect("an event loop");
        events.add_subscriber(transport.subscriber());
        Self {
            transport,
            irq,
            events,
            network,
        }
    }

    fn is_shown_memory(&mut self) -> bool {
        let mut word = [0; 4];
        self.transport
            .read(u64::from(VIRTIO_MMIO_DEVICE_ID), &mut word);
        u32::from_le_bytes(word) == VIRTIO_ID_PMEM
    }
}

#[derive(Clone, Copy, Default)]
struct Ring {
    avail_index: u16,
    next_desc: u16,
}

/// A guest, its memory, and its present machine.
pub(super) struct Guest {
    kind: Kind,
    memory: Arc<Memory>,
    machine: Option<Machine>,
    /// The queue on which the steps work.
    queue: usize,
    rings: [Ring; QUEUES_MAX],
    programs: Option<vsock::Programs>,
    turns_left: usize,
}

impl Guest {
    pub(super) fn new(kind: Kind) -> Self {
        IMAGE.with(|image| {
            image.set_len(DISK_BYTES as u64).expect("room in memory");
            image
                .write_all_at(&[0x5a; DISK_BYTES], 0)
                .expect("room in memory");
        });
        let memory = memory();
        let machine = Some(Machine::new(kind, INSTANCE, &memory));
        Self {
            kind,
            memory,
            machine,
            queue: 0,
            rings: Default::default(),
            programs: matches!(kind, Kind::Vsock).then(vsock::Programs::new),
            turns_left: TURNS_MAX,
        }
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine
            .as_mut()
            .expect("a guest is in a machine between steps")
    }

    /// Does one step: a byte that chooses it, then its operands.
    pub(super) fn step(&mut self, script: &mut Script) {
        match script.u8() % 16 {
            0 => self.write_register(u32::from(script.u8()) * 4, script.u32()),
            1 => {
                let (offset, mut bytes) = (offset(script), [0; 16]);
                let len = 1 + usize::from(script.u8() % 16);
                self.machine().transport.read(offset, &mut bytes[..len]);
            }
            2 => {
                let offset = offset(script);
                let len = 1 + usize::from(script.u8() % 8);
                let bytes = script.bytes(len);
                self.machine().transport.write(offset, bytes);
            }
            3 => self.negotiate(script.u64()),
            4 => {
                let rings = [DESC_TABLE, AVAIL_RING, USED_RING].map(|address| self.at(address));
                self.set_up_queue(1 << (script.u8() % 10), rings);
            }
            5 => {
                let size = u32::from(script.u16());
                self.set_up_queue(size, [(); 3].map(|()| u64::from(script.u32())));
            }
            6 => self.add_status(VIRTIO_CONFIG_S_DRIVER_OK),
            7 => {
                let (address, len) = (u64::from(script.u32() & 0x3_ffff), usize::from(script.u8()));
                self.store(address, script.bytes(len));
            }
            8 => {
                let (index, address, len) = (script.u16(), script.u64(), script.u32());
                self.descriptor(index, address, len, script.u16(), script.u16());
            }
            9 => self.make_available(script.u16()),
            10 => self.disk_request(script),
            11 => self.serve(),
            12 => self.move_to_another_machine(),
            13 => self.queue = queue_of(script.u8()),
            14 => self.vsock_packet(script),
            _ if self.kind.is_disk() => self.resize_disk(script),
            _ => {
                if let Some(programs) = &mut self.programs {
                    programs.step(script);
                }
                if let Some(network) = &mut self.machine().network {
                    network.step(script);
                }
                self.turn();
            }
        }
    }

    /// Address of a part of this queue's rings. `address` is that of the same part in queue 0.
    fn at(&self, address: u64) -> u64 {
        address + self.queue as u64 * QUEUE_DISTANCE
    }

    fn write_register(&mut self, register: u32, value: u32) {
        self.machine()
            .transport
            .write(u64::from(register), &value.to_le_bytes());
    }

    fn read_register(&mut self, register: u32) -> u32 {
        let mut word = [0; 4];
        self.machine()
            .transport
            .read(u64::from(register), &mut word);
        u32::from_le_bytes(word)
    }

    fn add_status(&mut self, bits: u32) {
        let status = self.read_register(VIRTIO_MMIO_STATUS);
        self.write_register(VIRTIO_MMIO_STATUS, status | bits);
    }

    /// Negotiates from reset to FEATURES_OK. If `features` is even, only the offered ones are
    /// taken.
    fn negotiate(&mut self, features: u64) {
        self.write_register(VIRTIO_MMIO_STATUS, 0);
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        let mut accepted = features;
        if features.is_multiple_of(2) {
            self.write_register(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
            let high = self.read_register(VIRTIO_MMIO_DEVICE_FEATURES);
            self.write_register(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
            let offered =
                u64::from(high) << 32 | u64::from(self.read_register(VIRTIO_MMIO_DEVICE_FEATURES));
            accepted = offered & (features | 1 << VIRTIO_F_VERSION_1);
        }
        for (select, word) in [(0, accepted), (1, accepted >> 32)] {
            self.write_register(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write_register(VIRTIO_MMIO_DRIVER_FEATURES, word as u32);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    }

    fn set_up_queue(&mut self, size: u32, addresses: [u64; 3]) {
        self.write_register(VIRTIO_MMIO_QUEUE_SEL, self.queue as u32);
        self.write_register(VIRTIO_MMIO_QUEUE_NUM, size);
        let registers = [
            VIRTIO_MMIO_QUEUE_DESC_LOW,
            VIRTIO_MMIO_QUEUE_AVAIL_LOW,
            VIRTIO_MMIO_QUEUE_USED_LOW,
        ];
        for (register, address) in registers.into_iter().zip(addresses) {
            self.write_register(register, address as u32);
            self.write_register(register + 4, (address >> 32) as u32);
        }
        self.write_register(VIRTIO_MMIO_QUEUE_READY, 1);
        self.rings[self.queue] = Ring::default();
    }

    /// Stores bytes in memory. A guest that writes outside of its memory faults by itself.
    fn store(&mut self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn descriptor(&mut self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        self.store(self.at(DESC_TABLE) + u64::from(index) * 16, &bytes);
    }

    fn make_available(&mut self, head: u16) {
        let avail_index = self.rings[self.queue].avail_index;
        let slot = u64::from(avail_index % RING_SIZE);
        self.store(self.at(AVAIL_RING) + 4 + slot * 2, &head.to_le_bytes());
        let next = avail_index.wrapping_add(1);
        self.rings[self.queue].avail_index = next;
        self.store(self.at(AVAIL_RING) + 2, &next.to_le_bytes());
    }

    /// Makes a request of three buffers, as a disk expects it. The buffers may contain anything.
    fn disk_request(&mut self, script: &mut Script) {
        let (operation, sector, len, shape) =
            (script.u32(), script.u64(), script.u16(), script.u8());
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&operation.to_le_bytes());
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        self.store(BUFFERS, &header);
        let data_flags = NEXT | if shape & 1 == 0 { WRITE } else { 0 };
        let head = self.rings[self.queue].next_desc;
        let [data, status] = [1, 2].map(|step| (head + step) % RING_SIZE);
        self.rings[self.queue].next_desc = (head + 3) % RING_SIZE;
        self.descriptor(head, BUFFERS, 16, NEXT, data);
        self.descriptor(data, BUFFERS + 0x100, u32::from(len), data_flags, status);
        self.descriptor(status, BUFFERS + 0x20, 1, WRITE, 0);
        self.make_available(head);
        if shape & 2 != 0 {
            self.serve();
        }
    }

    /// The host resizes the disk's image, and tells the machine.
    fn resize_disk(&mut self, script: &mut Script) {
        let size_bytes = u64::from(script.u8()) * 256;
        IMAGE.with(|image| image.set_len(size_bytes).expect("room in memory"));
        if self.machine().transport.look_anew().is_err() {
            // No disk has that size.
            IMAGE.with(|image| image.set_len(DISK_BYTES as u64).expect("room in memory"));
            self.machine().transport.look_anew().expect("a size");
        }
        self.turn();
    }

    /// Sends a packet in the transmit queue of a vsock device. Before that it gives a buffer to the
    /// receive queue.
    fn vsock_packet(&mut self, script: &mut Script) {
        let packet = vsock::packet(script);
        let queue = self.queue;
        self.store(PACKET, &packet);
        let len = packet.len() as u32;
        for (queue, address, len, flags) in
            [(0, PACKET + 0x1000, 0x200, WRITE), (1, PACKET, len, 0)]
        {
            self.queue = queue;
            let head = self.rings[queue].next_desc;
            self.rings[queue].next_desc = (head + 1) % RING_SIZE;
            self.descriptor(head, address, len, flags, 0);
            self.make_available(head);
            self.serve();
        }
        self.queue = queue;
    }

    /// Notifies the device and lets the machine's event loop run, a few turns at most.
    fn serve(&mut self) {
        self.write_register(VIRTIO_MMIO_QUEUE_NOTIFY, self.queue as u32);
        self.turn();
    }

    fn turn(&mut self) {
        while self.turns_left > 0 && self.machine().events.run_with_timeout(0).expect("events") > 0
        {
            self.turns_left -= 1;
        }
    }

    /// Pauses the device, and moves it to another machine. A paused device stands still for any
    /// content of the guest's memory. The other device has exactly the same state.
    pub(super) fn move_to_another_machine(&mut self) {
        let mut old = self
            .machine
            .take()
            .expect("a guest is in a machine between steps");
        old.transport.pause().expect("pause");
        if old.is_shown_memory() {
            old.transport
                .save()
                .expect_err("memory that is not the guest's");
            old.transport.resume().expect("resume");
            self.machine = Some(old);
            return;
        }
        let saved = old.transport.save().expect("save");
        let mut status = [0; 4];
        old.transport
            .read(u64::from(VIRTIO_MMIO_STATUS), &mut status);
        let raised = old.irq.raised();
        for event in old.transport.queue_events().iter() {
            event.write(1).expect("a kick");
        }
        old.events.run_with_timeout(0).expect("events");
        assert_eq!(
            old.irq.raised(),
            raised,
            "a paused device raised an interrupt"
        );
        assert_eq!(
            old.transport.save().expect("save"),
            saved,
            "a paused device changed"
        );
        drop(old);
        if let Kind::Pmem { shown } = &mut self.kind {
            *shown = false;
        }

        let mut new = Machine::new(self.kind, INSTANCE, &self.memory);
        new.transport.restore(&saved).expect("restore");
        // A device that waits for its reset does not use its position in the rings.
        if u32::from_le_bytes(status) & VIRTIO_CONFIG_S_NEEDS_RESET == 0 {
            let again = new.transport.save().expect("save");
            assert_eq!(again, saved, "restored to another state");
        }
        new.transport.resume().expect("resume");
        self.machine = Some(new);
    }
}

/// An offset in the device's slot, or in the first bytes behind the slot.
fn offset(script: &mut Script) -> u64 {
    u64::from(script.u16()) % (MMIO_LEN + 16)
}

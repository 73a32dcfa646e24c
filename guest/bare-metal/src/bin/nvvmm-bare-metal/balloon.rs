//! A driver of virtio-balloon (Virtio 1.2 section 5.5), which waits for each answer in a loop.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use nvvmm_bare_metal::FRAME_BYTES;

use crate::sys::Registers;

/// Bytes that are given back as a whole.
pub const PIECE_BYTES: u64 = 2 << 20;
const PIECE_FRAMES: usize = (PIECE_BYTES / FRAME_BYTES) as usize;
/// Pieces of one report.
pub const PIECES_MAX: usize = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const DEVICE_KIND: u32 = 5;
/// VIRTIO_BALLOON_F_REPORTING, and bit 32 for devices of version 1.
const FEATURES: [u32; 2] = [1 << 5, 1 << 0];
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// Registers of virtio-mmio (section 4.2.2).
mod register {
    pub const MAGIC: u64 = 0x00;
    pub const DEVICE_KIND: u64 = 0x08;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_PARTS: [u64; 3] = [0x80, 0x90, 0xa0];
}

/// The queues, by their index. The one of reports comes third, as there are no statistics.
#[derive(Debug, Clone, Copy)]
enum Queue {
    Inflate = 0,
    Deflate = 1,
    Report = 2,
}

const QUEUES: usize = 3;
const NEXT: u64 = 1;
const DEVICE_WRITES: u64 = 2;
/// Looks for an answer: at least some seconds.
const LOOKS_MAX: u64 = 500_000_000;

/// The parts of a queue, as the device reads and writes them. The fields behind a ring's head are
/// its entries.
#[repr(C, align(4096))]
struct Ring {
    /// Address, and length with flags and next.
    descriptors: [[AtomicU64; 2]; PIECES_MAX],
    /// Flags, index, entries.
    available: [AtomicU16; 2 + PIECES_MAX],
    used_flags: AtomicU32,
    used: [AtomicU64; PIECES_MAX],
}

static RINGS: [Ring; QUEUES] = [const {
    Ring {
        descriptors: [const { [const { AtomicU64::new(0) }; 2] }; PIECES_MAX],
        available: [const { AtomicU16::new(0) }; 2 + PIECES_MAX],
        used_flags: AtomicU32::new(0),
        used: [const { AtomicU64::new(0) }; PIECES_MAX],
    }
}; QUEUES];
/// Numbers of the pages of a request.
static PAGES: [AtomicU32; PIECE_FRAMES] = [const { AtomicU32::new(0) }; PIECE_FRAMES];

/// A balloon whose driver this is.
pub struct Balloon {
    registers: Registers,
}

impl Balloon {
    /// Finds the device, and begins to use it. `None`: there is none, or it is not as it should be.
    pub fn find() -> Option<Self> {
        let registers = Registers::all().find(|registers| {
            registers.read(register::MAGIC) == MAGIC
                && registers.read(register::DEVICE_KIND) == DEVICE_KIND
        })?;
        registers.write(register::STATUS, 0);
        let mut status = ACKNOWLEDGE | DRIVER;
        registers.write(register::STATUS, status);
        for (select, features) in (0..).zip(FEATURES) {
            registers.write(register::DRIVER_FEATURES_SELECT, select);
            registers.write(register::DRIVER_FEATURES, features);
        }
        status |= FEATURES_OK;
        registers.write(register::STATUS, status);
        if registers.read(register::STATUS) != status {
            return None;
        }
        for (index, ring) in (0..).zip(&RINGS) {
            ring.available
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            ring.used_flags.store(0, Ordering::Relaxed);
            registers.write(register::QUEUE_SELECT, index);
            registers.write(register::QUEUE_SIZE, PIECES_MAX as u32);
            let parts = [
                ring.descriptors.as_ptr() as u64,
                ring.available.as_ptr() as u64,
                (&raw const ring.used_flags) as u64,
            ];
            for (part, address) in register::QUEUE_PARTS.into_iter().zip(parts) {
                registers.write(part, address as u32);
                registers.write(part + 4, (address >> 32) as u32);
            }
            registers.write(register::QUEUE_READY, 1);
        }
        registers.write(register::STATUS, status | DRIVER_OK);
        Some(Self { registers })
    }

    /// Reports up to [`PIECES_MAX`] pieces as free. False: no answer.
    pub fn report(&self, pieces: impl Iterator<Item = u64>) -> bool {
        let pieces = pieces.map(|gpa| (gpa, PIECE_BYTES as u32));
        self.request(Queue::Report, pieces, DEVICE_WRITES)
    }

    /// Puts a piece into the balloon, page by page. False: no answer.
    pub fn inflate(&self, piece: u64) -> bool {
        self.name_pages(Queue::Inflate, piece)
    }

    /// Takes a piece out of the balloon. False: no answer.
    pub fn deflate(&self, piece: u64) -> bool {
        self.name_pages(Queue::Deflate, piece)
    }

    fn name_pages(&self, queue: Queue, piece: u64) -> bool {
        for (page, place) in (piece / FRAME_BYTES..).zip(&PAGES) {
            place.store(page as u32, Ordering::Relaxed);
        }
        let buffer = (PAGES.as_ptr() as u64, size_of_val(&PAGES) as u32);
        self.request(queue, core::iter::once(buffer), 0)
    }

    /// Makes one request of buffers, and waits for its answer.
    fn request(&self, queue: Queue, buffers: impl Iterator<Item = (u64, u32)>, flags: u64) -> bool {
        let ring = &RINGS[queue as usize];
        let mut count: usize = 0;
        for ((address, len), [place, rest]) in buffers.zip(&ring.descriptors) {
            count += 1;
            place.store(address, Ordering::Relaxed);
            let next = (flags | NEXT) << 32 | (count as u64) << 48;
            rest.store(u64::from(len) | next, Ordering::Relaxed);
        }
        let Some([_, last]) = count.checked_sub(1).map(|last| &ring.descriptors[last]) else {
            return true;
        };
        let len = last.load(Ordering::Relaxed) & u64::from(u32::MAX);
        last.store(len | flags << 32, Ordering::Relaxed);
        let index = ring.available[1].load(Ordering::Relaxed);
        // The chain begins at descriptor 0.
        ring.available[2 + usize::from(index) % PIECES_MAX].store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        ring.available[1].store(index.wrapping_add(1), Ordering::SeqCst);
        self.registers.write(register::QUEUE_NOTIFY, queue as u32);
        let answered =
            || ring.used_flags.load(Ordering::SeqCst) >> 16 == u32::from(index.wrapping_add(1));
        (0..LOOKS_MAX).any(|_| {
            core::hint::spin_loop();
            answered()
        })
    }
}

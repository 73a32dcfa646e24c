//! Memory that a guest gives back: its balloon names it, and the fault thread empties it.
//!
//! The thread that asks waits, as it does when it touches memory whose access is held: it has no
//! right to change mappings. What was asked for is done when it goes on, so nothing of it is left
//! when the devices stand still for a snapshot or a rewind.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Condvar, Mutex, PoisonError},
};

use nvvmm_devices::virtio::{FreePages, FreeRange};
use nvvmm_snapshot::{ChunkIndex, Resource, ask_for};

use super::{CHUNK_SIZE_BYTES, CowEngine, CowError, FRAME_SIZE_BYTES, counters::lock};
use crate::memory::ram_offset_of;

/// Chunks that are emptied before the next accesses are answered.
const CHUNKS_PER_TURN: usize = 4;

/// Chunks on their way from a balloon to the fault thread.
#[derive(Debug)]
pub struct Releases {
    memory_bytes: u64,
    /// One thread asks at a time.
    turn: Mutex<()>,
    queue: Mutex<Queue>,
    emptied: Condvar,
    wake: PipeWriter,
    woken: PipeReader,
}

#[derive(Debug)]
struct Queue {
    wanted: VecDeque<ChunkIndex>,
    /// Frames that were emptied for whoever asks.
    frames: u64,
    /// The fault thread takes chunks.
    is_open: bool,
    /// One bit for each chunk that was released at some time.
    released: Vec<u64>,
}

impl Releases {
    pub(super) fn new(memory_bytes: u64) -> io::Result<Self> {
        ask_for(Resource::Descriptor)?;
        let (woken, wake) = io::pipe()?;
        let chunks = memory_bytes as usize / CHUNK_SIZE_BYTES;
        Ok(Self {
            memory_bytes,
            turn: Mutex::default(),
            queue: Mutex::new(Queue {
                wanted: VecDeque::new(),
                frames: 0,
                is_open: true,
                released: vec![0; chunks.div_ceil(u64::BITS as usize)],
            }),
            emptied: Condvar::new(),
            wake,
            woken,
        })
    }

    /// True if the guest has given this chunk back since the machine was made: KVM's dirty log may
    /// name frames of it that hold nothing.
    pub fn has_released(&self, chunk: ChunkIndex) -> bool {
        let (word, bit) = place(chunk);
        let queue = lock(&self.queue);
        queue.released.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The chunks of RAM that lie wholly in these ranges of guest physical addresses.
    fn chunks_in(&self, ranges: &[FreeRange]) -> VecDeque<ChunkIndex> {
        let chunk_bytes = CHUNK_SIZE_BYTES as u64;
        let chunks = ranges.iter().flat_map(|range| {
            let end = range.gpa.saturating_add(range.len_bytes);
            let (first, behind) = (range.gpa.div_ceil(chunk_bytes), end / chunk_bytes);
            (first..behind.max(first)).filter_map(|number| {
                let offset = ram_offset_of(number * chunk_bytes, self.memory_bytes)?;
                Some(ChunkIndex::at_byte(offset))
            })
        });
        chunks.collect()
    }

    /// The descriptor that is readable when a balloon has named chunks.
    pub(super) fn woken(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Empties some of the chunks that a balloon has named. Returns true if there are more. Called
    /// by the fault thread, which says if the descriptor is readable.
    ///
    /// # Errors
    /// The VM cannot go on.
    pub(super) fn serve(&self, engine: &dyn CowEngine, is_woken: bool) -> Result<bool, CowError> {
        if is_woken {
            // What is named later wakes the thread again.
            let _ = (&self.woken).read(&mut [0; 16]);
        }
        for _ in 0..CHUNKS_PER_TURN {
            let Some(chunk) = lock(&self.queue).wanted.front().copied() else {
                return Ok(false);
            };
            let frames = match engine.release(chunk) {
                Ok(frames) => frames,
                // The chunk stays as it is: the guest may give it back, and need not.
                Err(CowError::NoSpace(_) | CowError::Arriving | CowError::Locked(_)) => 0,
                Err(error) => return Err(error),
            };
            let mut queue = lock(&self.queue);
            let (word, bit) = place(chunk);
            if let Some(word) = queue.released.get_mut(word) {
                *word |= bit;
            }
            queue.frames += u64::from(frames);
            queue.wanted.pop_front();
            if queue.wanted.is_empty() {
                self.emptied.notify_all();
            }
        }
        Ok(!lock(&self.queue).wanted.is_empty())
    }

    /// Nobody empties chunks any more: whoever waits goes on.
    pub(super) fn close(&self) {
        lock(&self.queue).is_open = false;
        self.emptied.notify_all();
    }
}

impl FreePages for Releases {
    fn unit_bytes(&self) -> u64 {
        CHUNK_SIZE_BYTES as u64
    }

    fn release(&self, ranges: &[FreeRange]) -> u64 {
        let chunks = self.chunks_in(ranges);
        let _turn = lock(&self.turn);
        let mut queue = lock(&self.queue);
        if chunks.is_empty() || !queue.is_open {
            return 0;
        }
        (queue.wanted, queue.frames) = (chunks, 0);
        if let Err(error) = (&self.wake).write(&[1]) {
            tracing::warn!(%error, "memory that the guest gives back stays");
            queue.wanted.clear();
        }
        while queue.is_open && !queue.wanted.is_empty() {
            let waited = self.emptied.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
        queue.wanted.clear();
        queue.frames * FRAME_SIZE_BYTES as u64
    }
}

fn place(chunk: ChunkIndex) -> (usize, u64) {
    let number = chunk.get() as usize;
    let bits = u64::BITS as usize;
    (number / bits, 1 << (number % bits))
}

#[cfg(test)]
#[path = "releases_test.rs"]
mod releases_test;

//! Frames of guest RAM that this process has written itself: devices, virtqueues, the loading of a
//! kernel. All of them write through vm-memory, which notes it here. Writes of vCPUs and of KVM are
//! in KVM's dirty log instead.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS, ChunkIndex, FrameSet};
use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

/// Writes of vCPUs and of KVM: a bit for each frame of a memory slot.
pub trait WriteLog {
    /// Frames of `slot` that were written since they were last taken.
    fn peek_slot(&self, slot: usize) -> io::Result<Vec<u64>>;

    /// Returns the same frames and clears them in the log: later writes are noted anew.
    ///
    /// # Errors
    /// Nothing was cleared then.
    fn take_slot(&self, slot: usize) -> io::Result<Vec<u64>>;
}

const WORD_FRAMES: usize = u64::BITS as usize;
const CHUNK_WORDS: usize = CHUNK_BLOCKS as usize / WORD_FRAMES;
/// Chunks (2 MiB) in a section: a section is made when the first of its frames is written, and is
/// one page large.
const SECTION_CHUNKS: usize = 64;
const SECTION_WORDS: usize = SECTION_CHUNKS * CHUNK_WORDS;
const FRAME_SIZE_BYTES: usize = BLOCK_SIZE_BYTES as usize;

type Section = [AtomicU64; SECTION_WORDS];

/// A bit for every frame, by RAM offset. Stretches of RAM that were never written cost nothing.
#[derive(Debug)]
pub struct WrittenFrames {
    sections: Box<[OnceLock<Box<Section>>]>,
}

impl WrittenFrames {
    /// Bits for RAM of `size_bytes`, nothing of it written.
    pub fn new(size_bytes: u64) -> Self {
        let frames = (size_bytes / BLOCK_SIZE_BYTES) as usize;
        let sections = frames.div_ceil(SECTION_WORDS * WORD_FRAMES);
        Self {
            sections: (0..sections).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The chunks with frames that were written since the last call, and those frames.
    pub fn take(&self) -> impl Iterator<Item = (ChunkIndex, FrameSet)> + '_ {
        // Pairs with `mark_dirty`: a thread that sees the bit sees the writes before it was set.
        self.chunks(|word| match word.load(Ordering::Relaxed) {
            0 => 0,
            _ => word.swap(0, Ordering::AcqRel),
        })
    }

    /// The result that [`WrittenFrames::take`] would have now.
    pub fn peek(&self) -> impl Iterator<Item = (ChunkIndex, FrameSet)> + '_ {
        self.chunks(|word| word.load(Ordering::Relaxed))
    }

    fn chunks(
        &self,
        read: impl Fn(&AtomicU64) -> u64 + Copy,
    ) -> impl Iterator<Item = (ChunkIndex, FrameSet)> {
        let sections = self.sections.iter().enumerate();
        let made = sections.filter_map(|(number, section)| Some((number, section.get()?)));
        made.flat_map(move |(number, section)| {
            section
                .as_chunks::<CHUNK_WORDS>()
                .0
                .iter()
                .enumerate()
                .map(move |(chunk, words)| {
                    let frames =
                        FrameSet::from_words(std::array::from_fn(|word| read(&words[word])));
                    let index = (number * SECTION_CHUNKS + chunk) as u32;
                    (ChunkIndex::new(index), frames)
                })
        })
        .filter(|(_, frames)| !frames.is_empty())
    }

    fn word(&self, frame: usize) -> Option<&AtomicU64> {
        let word = frame / WORD_FRAMES;
        let section = self.sections.get(word / SECTION_WORDS)?;
        let words = section.get_or_init(|| Box::new([const { AtomicU64::new(0) }; SECTION_WORDS]));
        Some(&words[word % SECTION_WORDS])
    }
}

impl<'a> WithBitmapSlice<'a> for WrittenFrames {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WrittenFrames {
    /// `offset` is a RAM offset. vm-memory calls this after the write.
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        for frame in offset / FRAME_SIZE_BYTES..=(offset + len - 1) / FRAME_SIZE_BYTES {
            if let Some(word) = self.word(frame) {
                // Not skipped when the bit is set already: the write before it could then become
                // visible only after somebody has taken the bit and read the frame.
                word.fetch_or(1 << (frame % WORD_FRAMES), Ordering::AcqRel);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let frame = offset / FRAME_SIZE_BYTES;
        let bit = |word: &AtomicU64| word.load(Ordering::Relaxed) >> (frame % WORD_FRAMES) & 1 == 1;
        self.word(frame).is_some_and(bit)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

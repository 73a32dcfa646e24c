//! Table of an engine's state for each chunk of guest RAM.

use std::sync::{Mutex, OnceLock};

use nvvmm_snapshot::ChunkIndex;

/// Chunks in a section, which is made when one of them is first used. A sparse guest of many
/// terabytes costs nothing for chunks that it never touches.
const SECTION_CHUNKS: usize = 256;

/// A lock and a `T` for every chunk, made when needed.
#[derive(Debug)]
pub(super) struct ChunkTable<T> {
    sections: Box<[OnceLock<Section<T>>]>,
}

type Section<T> = Box<[Mutex<T>]>;

impl<T: Default> ChunkTable<T> {
    /// A table for `chunks` chunks.
    pub fn new(chunks: u32) -> Self {
        let sections = (chunks as usize).div_ceil(SECTION_CHUNKS);
        Self {
            sections: (0..sections).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The chunk with this index, which must be one of them.
    pub fn get(&self, index: ChunkIndex) -> &Mutex<T> {
        let index = index.get() as usize;
        let section = self.sections[index / SECTION_CHUNKS]
            .get_or_init(|| (0..SECTION_CHUNKS).map(|_| Mutex::default()).collect());
        &section[index % SECTION_CHUNKS]
    }

    /// Chunks of the sections that were used, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkIndex, &Mutex<T>)> {
        let sections = self.sections.iter().enumerate();
        sections
            .filter_map(|(number, section)| Some((number, section.get()?)))
            .flat_map(|(number, section)| {
                let chunks = section.iter().enumerate();
                let first = number * SECTION_CHUNKS;
                chunks.map(move |(i, chunk)| (ChunkIndex::new((first + i) as u32), chunk))
            })
    }
}

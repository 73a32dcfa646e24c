//! Table of an engine's state for each chunk of guest RAM.

use std::sync::{Mutex, OnceLock};

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
    pub fn get(&self, index: u32) -> &Mutex<T> {
        let section = self.sections[index as usize / SECTION_CHUNKS]
            .get_or_init(|| (0..SECTION_CHUNKS).map(|_| Mutex::default()).collect());
        &section[index as usize % SECTION_CHUNKS]
    }

    /// Chunks of the sections that were used, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Mutex<T>)> {
        let sections = self.sections.iter().enumerate();
        sections
            .filter_map(|(number, section)| Some((number, section.get()?)))
            .flat_map(|(number, section)| {
                let chunks = section.iter().enumerate();
                chunks.map(move |(i, chunk)| ((number * SECTION_CHUNKS + i) as u32, chunk))
            })
    }
}

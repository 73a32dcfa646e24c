//! The bytes of a simulated medium, cheap to clone, with a hash that is kept up to date.

use std::sync::Arc;

use super::{BLOCK, LINE};

const BLOCK_BYTES: usize = BLOCK as usize;

/// Content of a cache line.
pub(crate) type Line = [u8; LINE as usize];

/// Bytes, kept by block; blocks that were never written are zero.
#[derive(Clone)]
pub(crate) struct Image {
    blocks: Vec<Option<Arc<[u8; BLOCK_BYTES]>>>,
    hash: u64,
}

impl Image {
    /// All zero.
    pub(crate) fn zeros(len: u64) -> Image {
        Image {
            blocks: vec![None; len.div_ceil(BLOCK) as usize],
            hash: 0,
        }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// Cuts it off behind `keep` bytes, and makes it `len` long with zeros.
    pub(crate) fn resize(&mut self, keep: u64, len: u64) {
        for line in keep / LINE..self.len_bytes() / LINE {
            self.set_line(line, &[0; LINE as usize]);
        }
        self.blocks.resize(len.div_ceil(BLOCK) as usize, None);
    }

    /// Equal for images with equal bytes.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn block(&self, block: u64) -> Option<&[u8; BLOCK_BYTES]> {
        self.blocks.get(block as usize)?.as_deref()
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let start = (at % BLOCK) as usize;
            let count = (BLOCK_BYTES - start).min(into.len() - done);
            match self.block(at / BLOCK) {
                Some(block) => {
                    into[done..done + count].copy_from_slice(&block[start..start + count])
                }
                None => into[done..done + count].fill(0),
            }
            done += count;
        }
    }

    pub(crate) fn line(&self, line: u64) -> Line {
        let mut bytes = [0; LINE as usize];
        self.read(line * LINE, &mut bytes);
        bytes
    }

    /// Sets a line; whether that changed it.
    pub(crate) fn set_line(&mut self, line: u64, bytes: &Line) -> bool {
        let at = (line * LINE / BLOCK) as usize;
        let start = (line * LINE % BLOCK) as usize;
        let place = start..start + LINE as usize;
        let before = self.blocks[at]
            .as_ref()
            .map_or(&[0; LINE as usize][..], |block| &block[place.clone()]);
        if before == bytes {
            return false;
        }
        self.hash ^= line_hash(line, before) ^ line_hash(line, bytes);
        let block = self.blocks[at].get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
        Arc::make_mut(block)[place].copy_from_slice(bytes);
        true
    }

    /// The first block of these that is not all zero.
    pub(crate) fn next_nonzero(&self, blocks: std::ops::Range<u64>) -> Option<u64> {
        blocks.into_iter().find(|block| {
            self.block(*block)
                .is_some_and(|bytes| bytes[..] != [0; BLOCK_BYTES][..])
        })
    }
}

/// A line of zeros counts nothing, so that images need not be hashed where they were never written.
fn line_hash(line: u64, bytes: &[u8]) -> u64 {
    let mut hash = line.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut any = 0;
    for word in bytes.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        any |= word;
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    if any == 0 { 0 } else { hash ^ hash >> 29 }
}

//! Counts added chunk by chunk and leaf by leaf are those of the single blocks.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::chunk_map::LeafBlocks;

const CHUNKS: u32 = 3;

proptest! {
    #[test]
    fn numbers_add_up(
        steps in prop::collection::vec(
            (
                0..3u8,
                0..CHUNKS * CHUNK_BLOCKS,
                prop::collection::vec(0..CHUNKS * CHUNK_BLOCKS, 0..20),
            ),
            1..30,
        )
    ) {
        let mut numbers = BlockNumbers::default();
        let mut expected: HashMap<u32, i32> = HashMap::new();
        for (kind, number, some) in steps {
            let block = BlockNo::new(number);
            match kind {
                0 => {
                    let known = expected.entry(number).or_default();
                    prop_assert_eq!(numbers.add(block, 1), *known);
                    *known += 1;
                }
                1 => {
                    numbers.add_frames(Frames::Chunk(block.chunk()));
                    for block in block.chunk().blocks() {
                        *expected.entry(block.get()).or_default() += 1;
                    }
                }
                _ => {
                    let mut leaf = LeafBlocks::new();
                    for (place, number) in leaf.numbers_mut().iter_mut().step_by(3).zip(some) {
                        *place = number;
                        if number != 0 {
                            *expected.entry(number).or_default() += 1;
                        }
                    }
                    numbers.add_frames(Frames::Leaf(&leaf));
                }
            }
        }
        for chunk in (0..CHUNKS).filter_map(ChunkNo::new) {
            let all = numbers.of_chunk(chunk).unwrap_or([0; CHUNK_BLOCKS as usize]);
            for (block, number) in chunk.blocks().zip(all) {
                prop_assert_eq!(number, expected.get(&block.get()).copied().unwrap_or(0));
                prop_assert_eq!(number, numbers.get(block));
            }
        }
    }
}

//! Memory of a snapshot as it is in the pool, before any guest runs on it.

use std::path::Path;

use nvvmm_bare_metal::{Memory, verify};
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, Pool};

const FRAME_BYTES: usize = BLOCK_SIZE_BYTES as usize;

/// Frames of a snapshot that have a block, by frame number.
pub struct SnapshotMemory {
    frames: Vec<Option<Box<[u8; FRAME_BYTES]>>>,
}

impl SnapshotMemory {
    /// Reads the snapshot's memory from the pool. Guest RAM must lie below 3 GiB, where frame
    /// numbers are GFNs.
    pub fn read(pool: &Path, snapshot: &str) -> Self {
        let pool = Pool::open(pool).expect("the pool opens");
        let holder = pool.hold("reader").expect("the pool has a free slot");
        let (_, map) = holder.pin(snapshot).expect("the snapshot is there");
        let mut frames = Vec::new();
        for chunk in map.iter_present() {
            let (index, chunk) = chunk.expect("the map is sound");
            for (frame, block) in chunk.iter_present() {
                let mut bytes = Box::new([0; FRAME_BYTES]);
                pool.read_block(block, &mut bytes)
                    .expect("the block is in the pool");
                let number = index.frame_number(frame) as usize;
                if frames.len() <= number {
                    frames.resize(number + 1, None);
                }
                frames[number] = Some(bytes);
            }
        }
        Self { frames }
    }

    /// Fails the test unless the bare-metal guest's memory is that of one instant. Returns the
    /// number of frames compared.
    pub fn assert_one_instant(&self, whose: &str) -> u64 {
        match verify::instant(self) {
            Ok(report) => report.frames,
            Err(failure) => panic!("{whose}: {failure:?}"),
        }
    }
}

impl Memory for SnapshotMemory {
    fn word(&self, gpa: u64) -> u64 {
        let Some(Some(frame)) = self.frames.get((gpa / BLOCK_SIZE_BYTES) as usize) else {
            return 0;
        };
        let at = gpa as usize % FRAME_BYTES;
        let word = frame[at..].first_chunk().expect("words are aligned");
        u64::from_le_bytes(*word)
    }
}

//! The bytes of a small pool, and changes to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotKind,
};

use crate::script::Script;

const BLOCK_BYTES: usize = 4096;
const POOL_BYTES: u64 = 16 << 20;
/// Memory size of the snapshots: large enough that the maps have an inner node.
pub(crate) const MEMORY_BYTES: u64 = 300 * (2 << 20);

/// Magic numbers of the blocks that have a checksum, all at the same place. An entry refers to a
/// node by its number and the low 24 bits of its checksum (docs/formats/pool.md).
const MAGICS: [&[u8]; 3] = [b"NVVMPOOL", b"NVND", b"NVIN"];
const CHECKSUM_AT: usize = 12;
const TAG_NODE: u64 = 2;
/// Levels of nodes, with the superblock and an inode. Checksums are carried up that often.
const HEIGHT_MAX: usize = 7;
/// Blocks of the fixed areas that are changed, too, although they are zero: a holder's slots, a
/// spare block.
const ZERO_BLOCKS: [u32; 3] = [16, 17, 64];

type Block = [u8; BLOCK_BYTES];

/// Blocks of a pool that are not zero.
#[derive(Clone)]
pub(crate) struct Image {
    blocks: BTreeMap<u32, Block>,
    /// Numbers of the blocks that can be changed. A byte of the script chooses one.
    chosen: Arc<[u32]>,
}

impl Image {
    /// A pool with two snapshots: closed in order, or in the state that it had while a VM used it.
    pub(crate) fn example(in_use: bool) -> Image {
        static EXAMPLES: LazyLock<[Image; 2]> = LazyLock::new(make_examples);
        EXAMPLES[usize::from(in_use)].clone()
    }

    fn of(bytes: &[u8]) -> Image {
        let mut blocks = BTreeMap::new();
        for (number, block) in (0u32..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            if block.iter().any(|byte| *byte != 0) {
                blocks.insert(number, block.try_into().expect("a block's length"));
            }
        }
        let chosen = blocks.keys().copied().chain(ZERO_BLOCKS).collect();
        Image { blocks, chosen }
    }

    fn choose(&self, script: &mut Script) -> u32 {
        self.chosen[usize::from(script.u8()) % self.chosen.len()]
    }

    /// Makes one change. The script gives the block, a byte for the kind of change, then its
    /// operands.
    pub(crate) fn change(&mut self, script: &mut Script) {
        let target = self.choose(script);
        let kind = script.u8();
        if kind.is_multiple_of(5) {
            let source = self.choose(script);
            let copy = self
                .blocks
                .get(&source)
                .copied()
                .unwrap_or([0; BLOCK_BYTES]);
            self.blocks.insert(target, copy);
            return;
        }
        let at = usize::from(script.u16()) % BLOCK_BYTES;
        let value = match kind % 5 {
            1 => script.bytes(1 + usize::from(kind / 5 % 16)).to_vec(),
            2 => script.u32().to_le_bytes().to_vec(),
            3 => self.choose(script).to_le_bytes().to_vec(),
            _ => {
                let entry = TAG_NODE << 56 | u64::from(self.choose(script));
                entry.to_le_bytes().to_vec()
            }
        };
        let width = if kind % 5 == 1 { 1 } else { value.len() };
        let at = at / width * width;
        let len = value.len().min(BLOCK_BYTES - at);
        let block = self.blocks.entry(target).or_insert([0; BLOCK_BYTES]);
        block[at..at + len].copy_from_slice(&value[..len]);
    }

    /// Makes all checksums right, from the leaves up, and the parts of them in entries that refer
    /// to nodes.
    pub(crate) fn mend(&mut self) {
        for _ in 0..HEIGHT_MAX {
            let checksums: BTreeMap<u32, u64> = self
                .blocks
                .iter()
                .map(|(number, block)| (*number, u64::from(word(block, CHECKSUM_AT)) & 0xff_ffff))
                .collect();
            let mut changed = false;
            for block in self.blocks.values_mut() {
                changed |= mend_block(block, &checksums);
            }
            if !changed {
                return;
            }
        }
    }

    /// The image as a file in memory, and a path by which it can be opened.
    pub(crate) fn file(&self) -> (File, PathBuf) {
        let file = File::from(memfd_create(c"pool", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
        file.set_len(POOL_BYTES).expect("room in memory");
        for (number, block) in &self.blocks {
            let offset = u64::from(*number) * BLOCK_BYTES as u64;
            file.write_all_at(block, offset).expect("room in memory");
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        (file, path)
    }
}

/// Makes the block's checksum right, and those of the nodes in its entries. Returns true if a
/// checksum has changed.
fn mend_block(block: &mut Block, checksums: &BTreeMap<u32, u64>) -> bool {
    if !MAGICS.iter().any(|magic| block.starts_with(magic)) {
        return false;
    }
    for entry in block.chunks_exact_mut(8) {
        let raw = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
        if raw >> 56 == TAG_NODE
            && let Some(checksum) = checksums.get(&(raw as u32))
        {
            let mended = TAG_NODE << 56 | checksum << 32 | raw & 0xffff_ffff;
            entry.copy_from_slice(&mended.to_le_bytes());
        }
    }
    let before = word(block, CHECKSUM_AT);
    block[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    let checksum = crc32fast::hash(block);
    block[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    checksum != before
}

fn word(block: &Block, at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn make_examples() -> [Image; 2] {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let path = directory.path().join("pool");
    let options = CreateOptions {
        size_bytes: POOL_BYTES,
        overcommit: true,
    };
    let pool = Pool::create(&path, &options).expect("a pool");
    let vm = pool.hold("vm").expect("a holder");
    let whole = vm.alloc_chunk().expect("a chunk");
    let single = vm.alloc_blocks(3).expect("blocks");
    let mut leaf = LeafBlocks::new();
    for (index, block) in (0u32..).zip(&single) {
        vm.write_block(*block, &[0x66; BLOCK_BYTES])
            .expect("a block of ours");
        leaf.set(index * 200, Some(*block));
    }
    let first = [
        (ChunkIndex::new(0), ChunkMap::Whole(whole)),
        (ChunkIndex::new(299), ChunkMap::Frames(Arc::new(leaf))),
    ];
    let mut base = None;
    for (name, changes) in [
        ("first", &first[..]),
        ("second", &[(ChunkIndex::new(0), ChunkMap::Hole)]),
    ] {
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: base,
            base,
            maps: vec![NewMap::memory(MEMORY_BYTES, changes)],
            state: &[0x77; 5000],
            frames_new: 1,
        };
        let reservation = vm.reserve(0).expect("room for a commit");
        base = Some(vm.commit_snapshot(new, reservation).expect("a commit").id);
    }
    vm.pin("first").expect("a pin");
    let in_use = Image::of(&fs::read(&path).expect("the pool's bytes"));
    drop((vm, pool));
    [
        Image::of(&fs::read(&path).expect("the pool's bytes")),
        in_use,
    ]
}

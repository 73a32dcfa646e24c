//! The bytes of a small pool, and changes to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, DiskHead, Holder, LeafBlocks, NewMap, NewSnapshot, Pool,
    SnapshotKind,
};

use tempfile::{NamedTempFile, TempPath};

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
/// First bytes of a disk's log, and the size of its records (docs/formats/pool-disks.md).
const LOG_MAGIC: &[u8] = b"NVHL";
const RECORD_BYTES: usize = 32;
/// Size of the disks.
pub(crate) const DISK_BYTES: u64 = (5 << 20) + 512;
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
    /// Blocks with records of a disk's log, and the front of the log.
    records: Arc<[(u32, u32)]>,
}

impl Image {
    /// A pool with two snapshots: closed in order, or in the state that it had while a VM used it.
    pub(crate) fn example(in_use: bool) -> Image {
        static EXAMPLES: LazyLock<[Image; 2]> = LazyLock::new(|| make_examples(|_, _| ()));
        EXAMPLES[usize::from(in_use)].clone()
    }

    /// The same with a snapshot of a VM that has disks, and with disks. The VM that uses the pool
    /// writes to one: its log has changes that no commit has.
    pub(crate) fn example_with_disks(in_use: bool) -> Image {
        static EXAMPLES: LazyLock<[Image; 2]> = LazyLock::new(|| make_examples(add_disks));
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
        let records = records_of(&blocks).into();
        Image {
            blocks,
            chosen,
            records,
        }
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
        self.mend_logs();
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

    /// Makes the checksums of all records right, and those of the words that say what was flushed.
    fn mend_logs(&mut self) {
        for (number, front) in self.records.iter() {
            let Some(front) = self.blocks.get_mut(front) else {
                continue;
            };
            let flushed = front[16..22].to_vec();
            let word = [&flushed[..], &[0, 0]].concat();
            front[22..24].copy_from_slice(&crc32fast::hash(&word).to_le_bytes()[..2]);
            let head: [u8; 8] = front[8..16].try_into().expect("eight bytes");
            let Some(block) = self.blocks.get_mut(number) else {
                continue;
            };
            for record in block.chunks_exact_mut(RECORD_BYTES) {
                let checksum = checksum_of_record(head, record);
                record[24..28].copy_from_slice(&checksum.to_le_bytes());
            }
        }
    }

    /// The image as a file in memory, which is removed with the first of these, and its path. The
    /// file has a name: a pool without one takes no commit.
    pub(crate) fn file(&self) -> (TempPath, PathBuf) {
        let file = NamedTempFile::new_in("/dev/shm").expect("a file in memory");
        file.as_file().set_len(POOL_BYTES).expect("room in memory");
        for (number, block) in &self.blocks {
            let offset = u64::from(*number) * BLOCK_BYTES as u64;
            let written = file.as_file().write_all_at(block, offset);
            written.expect("room in memory");
        }
        let path = file.path().to_owned();
        (file.into_temp_path(), path)
    }
}

/// Finds the blocks of logs: their first record has the checksum of a head.
fn records_of(blocks: &BTreeMap<u32, Block>) -> Vec<(u32, u32)> {
    let fronts: Vec<(u32, [u8; 8])> = blocks
        .iter()
        .filter(|(_, block)| block.starts_with(LOG_MAGIC))
        .map(|(number, block)| (*number, block[8..16].try_into().expect("eight bytes")))
        .collect();
    let mut found = Vec::new();
    for (number, block) in blocks {
        let record = &block[..RECORD_BYTES];
        let is_of =
            |head: [u8; 8]| record[24..28] == checksum_of_record(head, record).to_le_bytes();
        found.extend(
            fronts
                .iter()
                .filter(|(_, head)| is_of(*head))
                .map(|(front, _)| (*number, *front)),
        );
    }
    found
}

fn checksum_of_record(head: [u8; 8], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(&record[..24]);
    hasher.finalize()
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

/// Makes the pool. `add` gets the pool and the VM that uses it, and returns what it uses.
fn make_examples<T>(add: fn(&Arc<Pool>, &Holder) -> T) -> [Image; 2] {
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
    let used = add(&pool, &vm);
    let in_use = Image::of(&fs::read(&path).expect("the pool's bytes"));
    drop((used, vm, pool));
    [
        Image::of(&fs::read(&path).expect("the pool's bytes")),
        in_use,
    ]
}

/// Adds disks, a snapshot that has them, and changes of one of them that are in its log only.
fn add_disks(pool: &Arc<Pool>, vm: &Holder) -> Arc<DiskHead> {
    pool.create_disk("data", DISK_BYTES).expect("a disk");
    let head = vm.attach_disk("data").expect("a head");
    head.write(1000, &[0x55; 20_000]).expect("a write");
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "third",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(MEMORY_BYTES, &[])],
        state: &[0x77; 500],
        frames_new: 0,
    };
    let reservation = vm.reserve(1).expect("room for a commit");
    let cuts = vec![head.cut().expect("a cut")];
    vm.commit_with_disks(new, cuts, &[], reservation)
        .expect("a commit");
    pool.copy_disk_of("third", "data", "copy").expect("a copy");
    head.write(DISK_BYTES - 5000, &[0x66; 5000])
        .expect("a write");
    head.flush().expect("a flush");
    head.write(1 << 20, &[0x77; 8192]).expect("a write");
    head.discard(4096, 8192).expect("a discard");
    head
}

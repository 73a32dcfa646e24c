//! Operations of users on a pool.

use std::sync::Arc;

use nvvmm_snapshot::{
    BlockNo, ChunkIndex, ChunkMap, DiskHead, DiskReader, Error, Holder, LeafBlocks, MapKind,
    NewMap, NewSnapshot, Pool, SnapshotId, SnapshotKind,
};

use super::image::{DISK_BYTES, MEMORY_BYTES};
use crate::script::Script;

const NAMES: [&str; 4] = ["first", "second", "third", "no such"];
const DISKS: [&str; 4] = ["data", "copy", "new", "no such"];
/// Most bytes of a disk that are read or written at once.
const PIECE_BYTES: usize = 20_000;
/// Chunks of a map that are read one by one.
const CHUNKS_LOOKED_AT: u32 = 8;

/// Reads everything in a pool: lists, maps, states, and the first block of each chunk. In a clean
/// pool these agree.
pub(super) fn read_all(pool: &Arc<Pool>, clean: bool) -> Result<(), Error> {
    pool.status()?;
    let reader = pool.hold("reader")?;
    for entry in pool.snapshots()? {
        let found = pool.find(&entry.name)?;
        let (pinned, map) = reader.pin(&entry.name)?;
        let mut frames = 0;
        for chunk in map.iter_present() {
            let (index, chunk) = chunk?;
            frames += u64::from(chunk.count());
            let count = map.chunk(index)?.count();
            assert!(
                !clean || count == chunk.count(),
                "chunk {index} is looked up and listed"
            );
            if let Some((_, block)) = chunk.iter_present().next() {
                pool.read_block(block, &mut [0; 4096])?;
            }
        }
        let state = pool.read_state(entry.id)?;
        let mut of_memory = entry.frames_mapped;
        for map in &entry.maps {
            if let MapKind::Disk(name) = map.kind {
                read_disk(&reader.disk_of(entry.id, name.as_str())?)?;
                of_memory = of_memory.saturating_sub(map.frames);
            }
        }
        reader.unpin(pinned.id)?;
        if clean {
            assert_eq!(found, entry, "found by name and listed");
            assert_eq!(pinned.id, entry.id, "pinned and listed");
            assert_eq!(frames, of_memory, "mapped and listed");
            assert_eq!(state.len() as u64, entry.state_bytes, "read and listed");
        }
    }
    Ok(())
}

/// Reads the first bytes and the last ones of a disk.
fn read_disk(disk: &DiskReader) -> Result<(), Error> {
    let mut bytes = [0; 512];
    disk.read(0, &mut bytes)?;
    disk.read(disk.size_bytes() - bytes.len() as u64, &mut bytes)
}

/// A VM that uses the pool, and a user at the command line.
pub(super) struct User {
    head: Option<Arc<DiskHead>>,
    holder: Option<Holder>,
    blocks: Vec<BlockNo>,
    known: Vec<SnapshotId>,
    pool: Arc<Pool>,
    clean: bool,
}

impl User {
    pub(super) fn new(pool: Arc<Pool>, clean: bool) -> User {
        User {
            head: None,
            holder: pool.hold("vm").ok(),
            blocks: Vec::new(),
            known: Vec::new(),
            pool,
            clean,
        }
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Does one step. The script gives a byte that chooses the step, and a byte for its target. An
    /// error is an answer, too.
    pub(super) fn step(&mut self, script: &mut Script) {
        let (step, choice) = (script.u8() % 18, script.u8());
        let name = NAMES[usize::from(choice) % NAMES.len()];
        let _ = match step {
            0 => self.pool.status().map(drop),
            1 => self.pool.check().map(drop),
            2 => read_all(&self.pool, self.clean),
            3 => self.pool.remove(name).map(drop),
            4 => self.commit(name, choice, script),
            5 => self
                .with_holder(|vm| vm.alloc_blocks(u32::from(choice % 8)))
                .map(|blocks| self.blocks.extend(blocks)),
            6 => self.with_holder(|vm| vm.alloc_chunk().map(drop)),
            7 => self
                .with_holder(|vm| vm.pin(name))
                .map(|(entry, _)| self.known.push(entry.id)),
            8 => self.unpin(choice),
            9 => self.consume(choice),
            10 => {
                if let Some(vm) = &self.holder {
                    vm.free_blocks(&self.blocks);
                }
                self.blocks.clear();
                Ok(())
            }
            11 => self.look_at_map(name),
            12 => self.attach(choice),
            13 => self.change_disk(choice, script),
            14 => self.commit_with_disk(name),
            15 => self.arrange_disks(choice),
            _ => {
                // The VM ends, and another one starts.
                self.head = None;
                (self.holder, self.blocks) = (None, Vec::new());
                self.pool
                    .hold("vm")
                    .map(|holder| self.holder = Some(holder))
            }
        };
    }

    fn with_holder<T>(&self, act: impl FnOnce(&Holder) -> Result<T, Error>) -> Result<T, Error> {
        match &self.holder {
            Some(holder) => act(holder),
            None => Err(self
                .pool
                .find("no such")
                .expect_err("there is none of that name")),
        }
    }

    /// Commits a snapshot of the VM's blocks, after one that the VM pins, if any.
    fn commit(&mut self, name: &str, choice: u8, script: &mut Script) -> Result<(), Error> {
        let mut leaf = LeafBlocks::new();
        for (index, block) in (0u32..).zip(std::mem::take(&mut self.blocks)) {
            leaf.set(index, Some(block));
        }
        let at = u32::from(script.u16()) % (MEMORY_BYTES >> 21) as u32;
        let changes = [(ChunkIndex::new(at), ChunkMap::Frames(Arc::new(leaf)))];
        let base = (choice & 64 == 0)
            .then(|| self.known.last().copied())
            .flatten();
        let committed = self.with_holder(|vm| {
            let new = NewSnapshot {
                kind: SnapshotKind::Vm,
                name,
                parent: base,
                base,
                maps: vec![NewMap::memory(MEMORY_BYTES, &changes)],
                state: b"state",
                frames_new: 0,
            };
            vm.commit_snapshot(new, vm.reserve(0)?)
        })?;
        self.known.push(committed.id);
        Ok(())
    }

    /// Attaches a disk, in place of the one that is attached.
    fn attach(&mut self, choice: u8) -> Result<(), Error> {
        self.head = None;
        let name = DISKS[usize::from(choice) % DISKS.len()];
        if choice & 0x80 != 0 {
            return self.with_holder(|_| Ok(())).and_then(|()| {
                let reader = self.pool.hold("reader")?;
                read_disk(&reader.attach_disk_read_only(name)?)
            });
        }
        self.head = Some(self.with_holder(|vm| vm.attach_disk(name))?);
        Ok(())
    }

    /// Reads or changes a part of the attached disk. What was written is read back.
    fn change_disk(&mut self, choice: u8, script: &mut Script) -> Result<(), Error> {
        let Some(head) = &self.head else {
            return Ok(());
        };
        let offset = u64::from(script.u16()) * 512;
        let len = usize::from(script.u16()) % PIECE_BYTES;
        match choice % 6 {
            0 => head.read(offset, &mut vec![0; len]),
            1 => {
                let (bytes, mut back) = (vec![choice; len], vec![0; len]);
                head.write(offset, &bytes)?;
                head.read(offset, &mut back)?;
                assert!(back == bytes, "a disk has what was written");
                Ok(())
            }
            2 => head.discard(offset, len as u64),
            3 => head.write_zeroes(offset, len as u64),
            4 => head.flush(),
            _ => {
                self.head = None;
                Ok(())
            }
        }
    }

    fn commit_with_disk(&mut self, name: &str) -> Result<(), Error> {
        let cuts = match &self.head {
            Some(head) => vec![head.cut()?],
            None => Vec::new(),
        };
        let committed = self.with_holder(|vm| {
            let new = NewSnapshot {
                kind: SnapshotKind::Vm,
                name,
                parent: None,
                base: None,
                maps: vec![NewMap::memory(MEMORY_BYTES, &[])],
                state: b"state",
                frames_new: 0,
            };
            vm.commit_with_disks(new, cuts, &[], vm.reserve(1)?)
        })?;
        self.known.push(committed.id);
        Ok(())
    }

    /// Makes, copies, renames, resizes or removes a disk.
    fn arrange_disks(&mut self, choice: u8) -> Result<(), Error> {
        let name = DISKS[usize::from(choice >> 4) % DISKS.len()];
        match choice % 6 {
            0 => self.pool.create_disk(name, DISK_BYTES).map(drop),
            1 => self.pool.copy_disk("data", name).map(drop),
            2 => self.pool.copy_disk_of("third", "data", name).map(drop),
            3 => self.pool.rename_disk(name, "new"),
            4 => self.pool.resize_disk(name, u64::from(choice) * 512),
            _ => self.pool.remove_disk(name),
        }
    }

    fn known(&self, choice: u8) -> Option<SnapshotId> {
        let index = usize::from(choice).checked_rem(self.known.len())?;
        Some(self.known[index])
    }

    fn unpin(&mut self, choice: u8) -> Result<(), Error> {
        match self.known(choice) {
            Some(id) => self.with_holder(|vm| vm.unpin(id)),
            None => Ok(()),
        }
    }

    fn consume(&mut self, choice: u8) -> Result<(), Error> {
        match self.known(choice) {
            Some(id) => self.with_holder(|vm| vm.consume(id)).map(drop),
            None => Ok(()),
        }
    }

    fn look_at_map(&self, name: &str) -> Result<(), Error> {
        self.with_holder(|vm| {
            let (entry, map) = vm.pin(name)?;
            let last = map.chunks_total().saturating_sub(1);
            for index in (0..CHUNKS_LOOKED_AT).chain([last, u32::MAX]) {
                let _ = map.chunk(index);
            }
            vm.unpin(entry.id)
        })
    }
}

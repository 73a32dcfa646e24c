//! The pool against a plain model: VMs write, snapshot, restore, consume, stop; frames of theirs
//! become pages of process images, and those become frames of any VM; all of these are removed in
//! any order; the pool is opened several times at once, and grows. After each step every snapshot
//! and every VM's memory is what the model says, and the pool's own check finds nothing.

#![allow(clippy::unwrap_used)]

#[path = "../place/mod.rs"]
mod place;
mod vm;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::{
    CHUNK_BLOCKS, ChunkIndex, ChunkMap, Error, GrowOptions, Medium, Pool, SnapshotId, SnapshotKind,
};
use proptest::prelude::*;

use crate::place::PoolPlace;
use crate::vm::{Capture, Vm, read_all};

const POOL_BYTES: u64 = 24 << 20;
const MEMORY_BYTES: u64 = 520 * (2 << 20);
/// Chunks of guest memory that are used: on both sides of the borders of inner nodes.
const CHUNKS: [u32; 5] = [0, 1, 255, 256, 519];
const VMS: usize = 4;
const PROCESSES: usize = 2;
const NAMES: usize = 6;

/// Guest memory: what each frame that was ever written is filled with.
type Memory = BTreeMap<(u32, u32), u8>;

#[derive(Debug, Clone)]
enum Step {
    Boot {
        vm: usize,
        process: usize,
    },
    Write {
        vm: usize,
        chunk: usize,
        frame: u32,
        frames: u32,
        with: u8,
        beside: bool,
    },
    WriteWhole {
        vm: usize,
        chunk: usize,
        with: u8,
    },
    Drop {
        vm: usize,
        chunk: usize,
    },
    Snapshot {
        vm: usize,
        name: usize,
        reserve: bool,
    },
    Capture {
        vm: usize,
        name: usize,
        capture: Capture,
    },
    Adopt {
        vm: usize,
        name: usize,
        chunk: usize,
        frame: u32,
    },
    Restore {
        vm: usize,
        process: usize,
        name: usize,
    },
    RestoreOnce {
        vm: usize,
        process: usize,
        name: usize,
    },
    Remove {
        process: usize,
        name: usize,
    },
    Stop {
        vm: usize,
    },
    Reopen {
        process: usize,
    },
    Grow {
        process: usize,
        chunks: u64,
    },
    Scrub {
        process: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (vm, process, name, chunk) = (0..VMS, 0..PROCESSES, 0..NAMES, 0..CHUNKS.len());
    prop_oneof![
        2 => (vm.clone(), process.clone()).prop_map(|(vm, process)| Step::Boot { vm, process }),
        8 => (vm.clone(), chunk.clone(), 0..CHUNK_BLOCKS, 1..40u32, 1..=255u8, any::<bool>())
            .prop_map(|(vm, chunk, frame, frames, with, beside)| {
                Step::Write { vm, chunk, frame, frames, with, beside }
            }),
        2 => (vm.clone(), chunk.clone(), 1..=255u8)
            .prop_map(|(vm, chunk, with)| Step::WriteWhole { vm, chunk, with }),
        1 => (vm.clone(), chunk.clone()).prop_map(|(vm, chunk)| Step::Drop { vm, chunk }),
        4 => (vm.clone(), name.clone(), capture())
            .prop_map(|(vm, name, capture)| Step::Capture { vm, name, capture }),
        4 => (vm.clone(), name.clone(), chunk, 0..CHUNK_BLOCKS)
            .prop_map(|(vm, name, chunk, frame)| Step::Adopt { vm, name, chunk, frame }),
        6 => (vm.clone(), name.clone(), any::<bool>())
            .prop_map(|(vm, name, reserve)| Step::Snapshot { vm, name, reserve }),
        3 => (vm.clone(), process.clone(), name.clone())
            .prop_map(|(vm, process, name)| Step::Restore { vm, process, name }),
        2 => (vm.clone(), process.clone(), name.clone())
            .prop_map(|(vm, process, name)| Step::RestoreOnce { vm, process, name }),
        3 => (process.clone(), name).prop_map(|(process, name)| Step::Remove { process, name }),
        2 => vm.prop_map(|vm| Step::Stop { vm }),
        1 => process.clone().prop_map(|process| Step::Reopen { process }),
        2 => process.clone().prop_map(|process| Step::Scrub { process }),
        1 => (process, 0..6u64).prop_map(|(process, chunks)| Step::Grow { process, chunks }),
    ]
}

/// Frames of one chunk; as pages they are together, or have holes between them, or are in two
/// chunks.
fn capture() -> impl Strategy<Value = Capture> {
    let apart = prop_oneof![Just(1u32), Just(2), Just(16)];
    (0..CHUNKS.len(), 0..CHUNK_BLOCKS, 1..60u32, apart).prop_map(|(chunk, first, frames, apart)| {
        Capture {
            chunk: CHUNKS[chunk],
            first,
            frames,
            apart,
        }
    })
}

struct Saved {
    id: SnapshotId,
    kind: SnapshotKind,
    memory: Memory,
    state: Vec<u8>,
}

struct World {
    pools: Vec<Arc<Pool>>,
    vms: Vec<Option<Vm>>,
    saved: BTreeMap<String, Saved>,
    empty_medium_bytes: u64,
    growths: u32,
    /// The last to go.
    place: PoolPlace,
}

fn name_of(name: usize) -> String {
    format!("snapshot-{name}")
}

/// A pool that is full is no failure of the pool.
fn or_full<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::PoolFull { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

impl World {
    fn new() -> World {
        let place = PoolPlace::new();
        let first = place.create(POOL_BYTES);
        let empty_medium_bytes = first.status().unwrap().medium_bytes;
        let mut pools = vec![first];
        pools.extend((1..PROCESSES).map(|_| Pool::open(place.path()).unwrap()));
        let vms = (0..VMS).map(|_| None).collect();
        World {
            pools,
            vms,
            saved: BTreeMap::new(),
            empty_medium_bytes,
            growths: 0,
            place,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Boot { vm, process } => {
                if self.vms[vm].is_none() {
                    self.vms[vm] = Some(Vm::new(&self.pools[process], process));
                }
            }
            Step::Write {
                vm,
                chunk,
                frame,
                frames,
                with,
                beside,
            } => {
                if let Some(vm) = &mut self.vms[vm] {
                    vm.write(CHUNKS[chunk], frame, frames, with, beside);
                }
            }
            Step::WriteWhole { vm, chunk, with } => {
                if let Some(vm) = &mut self.vms[vm] {
                    vm.write_whole(CHUNKS[chunk], with);
                }
            }
            Step::Drop { vm, chunk } => {
                if let Some(vm) = &mut self.vms[vm] {
                    vm.drop_chunk(CHUNKS[chunk]);
                }
            }
            Step::Snapshot { vm, name, reserve } => self.snapshot(vm, &name_of(name), reserve),
            Step::Capture { vm, name, capture } => self.capture(vm, &name_of(name), capture),
            Step::Adopt {
                vm,
                name,
                chunk,
                frame,
            } => self.adopt(vm, &name_of(name), (CHUNKS[chunk], frame)),
            Step::Restore { vm, process, name } => self.restore(vm, process, &name_of(name)),
            Step::RestoreOnce { vm, process, name } => {
                self.restore_once(vm, process, &name_of(name))
            }
            Step::Remove { process, name } => self.remove(process, &name_of(name)),
            Step::Stop { vm } => self.vms[vm] = None,
            Step::Reopen { process } => {
                if !self.vms.iter().flatten().any(|vm| vm.process == process) {
                    drop(self.pools.remove(process));
                    self.pools
                        .insert(process, Pool::open(self.place.path()).unwrap());
                }
            }
            Step::Grow { process, chunks } => self.grow(process, chunks),
            Step::Scrub { process } => self.scrub(process),
        }
    }

    fn snapshot(&mut self, vm: usize, name: &str, reserve: bool) {
        let Some(vm) = &mut self.vms[vm] else { return };
        let saved = vm.snapshot(name, reserve);
        self.note(name, saved);
    }

    fn capture(&mut self, vm: usize, name: &str, capture: Capture) {
        let Some(vm) = &mut self.vms[vm] else { return };
        let pins = vm.pins();
        match vm.capture(name, capture) {
            Err(Error::TooManyPins { count }) => assert_eq!(pins, count),
            saved => self.note(name, saved),
        }
    }

    fn adopt(&mut self, vm: usize, name: &str, at: (u32, u32)) {
        let Some(vm) = &mut self.vms[vm] else { return };
        let pins = vm.pins();
        match self.saved.get(name) {
            None => assert!(matches!(vm.holder.pin(name), Err(Error::NotFound { .. }))),
            Some(saved) if saved.kind == SnapshotKind::Vm => {}
            Some(image) => match vm.adopt(name, image, at) {
                Err(Error::TooManyPins { count }) => assert_eq!(pins, count),
                adopted => adopted.unwrap(),
            },
        }
    }

    fn note(&mut self, name: &str, saved: Result<Saved, Error>) {
        match saved {
            Ok(saved) => assert!(
                self.saved.insert(name.to_owned(), saved).is_none(),
                "{name} was taken twice"
            ),
            Err(Error::NameTaken { .. }) => assert!(self.saved.contains_key(name)),
            Err(Error::PoolFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// A VM to be, with the memory of a VM's snapshot.
    fn pinned(&mut self, process: usize, name: &str) -> Option<(Vm, nvvmm_snapshot::FrameMap)> {
        if self
            .saved
            .get(name)
            .is_some_and(|saved| saved.kind == SnapshotKind::Process)
        {
            return None;
        }
        let mut vm = Vm::new(&self.pools[process], process);
        let pinned = vm.holder.pin(name);
        let Some(saved) = self.saved.get(name) else {
            assert!(matches!(pinned, Err(Error::NotFound { .. })));
            return None;
        };
        let (entry, map) = pinned.unwrap();
        assert_eq!(
            (entry.id, entry.frames_mapped),
            (saved.id, saved.memory.len() as u64)
        );
        vm.base = Some(entry.id);
        vm.memory = saved.memory.clone();
        Some((vm, map))
    }

    fn restore(&mut self, vm: usize, process: usize, name: &str) {
        if self.vms[vm].is_some() {
            return;
        }
        let Some((mut restored, map)) = self.pinned(process, name) else {
            return;
        };
        for chunk in map.iter_present() {
            let (index, chunk) = chunk.unwrap();
            restored.map.insert(index.get(), chunk.to_leaf());
        }
        self.vms[vm] = Some(restored);
    }

    fn restore_once(&mut self, vm: usize, process: usize, name: &str) {
        if self.vms[vm].is_some() {
            return;
        }
        let Some((mut restored, map)) = self.pinned(process, name) else {
            return;
        };
        let id = restored.base.unwrap();
        let others = self.vms.iter().flatten().any(|vm| vm.base == Some(id));
        let present: Vec<(ChunkIndex, ChunkMap)> = map.iter_present().map(Result::unwrap).collect();
        match restored.holder.consume(id) {
            Err(Error::Busy { .. }) => assert!(others, "{name} is pinned by nobody else"),
            Err(Error::PoolFull { .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(consumed) => {
                assert!(!others, "{name} was consumed under another VM");
                let chunks: Vec<(ChunkIndex, ChunkMap)> = consumed
                    .memory()
                    .iter()
                    .map(|chunk| (chunk.index, chunk.map.clone()))
                    .collect();
                assert_eq!(chunks, present);
                let mut all_taken = true;
                for chunk in consumed.memory() {
                    for (frame, block) in chunk.map.iter_present() {
                        if chunk.taken.contains(frame) {
                            restored.mine.insert(block);
                        } else {
                            all_taken = false;
                        }
                    }
                    if !chunk.taken.is_empty() {
                        restored.changed.insert(chunk.index.get());
                    }
                    restored.map.insert(chunk.index.get(), chunk.map.to_leaf());
                }
                assert_eq!(consumed.rest, (!all_taken).then_some(id));
                restored.base = consumed.rest;
                self.saved.remove(name);
                self.vms[vm] = Some(restored);
            }
        }
    }

    fn remove(&mut self, process: usize, name: &str) {
        let free = self.pools[process].status().unwrap().free_blocks;
        match (self.pools[process].remove(name), self.saved.remove(name)) {
            (Ok(removed), Some(saved)) => {
                let pinned = self.vms.iter().flatten().any(|vm| vm.has_pinned(saved.id));
                assert_eq!(removed.deferred, pinned);
                let status = self.pools[process].status().unwrap();
                if !pinned && status.holders.is_empty() {
                    assert_eq!(status.free_blocks, free + removed.blocks_freed);
                }
            }
            (Err(Error::NotFound { .. }), None) => {}
            (result, saved) => panic!(
                "removing {name}: {result:?}, the model has it: {}",
                saved.is_some()
            ),
        }
    }

    fn grow(&mut self, process: usize, chunks: u64) {
        let before = self.pools[process].status().unwrap();
        let size_bytes = before.size_bytes + chunks * (2 << 20);
        let grown = self.pools[process].grow(&GrowOptions {
            size_bytes,
            overcommit: false,
        });
        if self.place.medium() == Medium::Devdax {
            assert!(
                matches!(
                    grown,
                    Err(Error::FixedSize { .. } | Error::InvalidSize { .. })
                ),
                "{grown:?}"
            );
            return;
        }
        // One chunk would hold nothing but the new segment's tables.
        if chunks < 2 {
            assert!(matches!(grown, Err(Error::InvalidSize { .. })), "{grown:?}");
            return;
        }
        self.growths += 1;
        assert_eq!(grown.unwrap().blocks_added, (chunks - 1) * 512);
        for pool in &self.pools {
            let after = pool.status().unwrap();
            assert_eq!(after.size_bytes, size_bytes);
            assert_eq!(after.free_blocks, before.free_blocks + (chunks - 1) * 512);
        }
    }

    /// Blocks that had a digest were verified, others have one now: a second scrub verifies them
    /// all.
    fn scrub(&self, process: usize) {
        let pool = &self.pools[process];
        let first = pool.scrub(&mut |_| ControlFlow::Continue(())).unwrap();
        let second = pool.scrub(&mut |_| ControlFlow::Continue(())).unwrap();
        assert!(
            first.is_clean() && second.is_clean(),
            "{first:?} {second:?}"
        );
        assert_eq!(
            second.blocks_verified,
            first.blocks_verified + first.digests_made
        );
        assert_eq!((second.digests_made, second.interrupted), (0, false));
        assert!(second.blocks_verified <= pool.status().unwrap().snapshot_blocks);
    }

    fn verify(&self) {
        let pool = &self.pools[0];
        let report = pool.check().unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
        let entries = pool.snapshots().unwrap();
        assert_eq!(entries.len(), self.saved.len());
        let reader = pool.hold("reader").unwrap();
        for entry in entries {
            let saved = &self.saved[&entry.name];
            let (pinned, map) = reader.pin(&entry.name).unwrap();
            let chunks: Vec<(ChunkIndex, ChunkMap)> =
                map.iter_present().map(Result::unwrap).collect();
            for (index, chunk) in &chunks {
                assert_eq!(map.chunk(*index).unwrap(), *chunk);
            }
            let frames = chunks.iter().flat_map(|(index, chunk)| {
                chunk
                    .iter_present()
                    .map(move |(frame, block)| ((index.get(), frame.get()), block))
            });
            assert_eq!(read_all(pool, frames), saved.memory, "{}", entry.name);
            assert_eq!(pool.read_state(entry.id).unwrap(), saved.state);
            assert_eq!(
                (pinned.id, pinned.kind, pinned.frames_mapped),
                (saved.id, saved.kind, saved.memory.len() as u64)
            );
            reader.unpin(entry.id).unwrap();
        }
        self.vms.iter().flatten().for_each(|vm| vm.verify(pool));
    }

    /// In the end everything goes, and nothing may be left of it.
    fn end(mut self) {
        self.vms.clear();
        let names: Vec<String> = self.saved.keys().cloned().collect();
        for name in names {
            self.remove(0, &name);
        }
        let status = self.pools[0].status().unwrap();
        assert_eq!(
            status.free_blocks,
            status.total_blocks - status.metadata_blocks
        );
        assert_eq!(
            (status.snapshots, status.orphans, status.snapshot_blocks),
            (0, 0, 0)
        );
        // What may be left are tables: a block of the block table for every chunk, and the grown
        // segments' chunk tables.
        assert!(
            !self.place.takes_back_blocks
                || status.medium_bytes
                    <= self.empty_medium_bytes
                        + (status.size_bytes >> 21) * 4096
                        + u64::from(self.growths) * 4096,
            "{status:?}"
        );
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: nvvmm_test_profile::cases(16, 48),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_pool_does_what_a_plain_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.verify();
        }
        world.end();
    }
}

//! The operations of a history.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::model::{Saved, Snapshots};
use super::world::{Outcome, PROCESSES, VMS, Vm, World};
use crate::region::sim::Random;
use crate::{
    BlockNo, ChunkIndex, ChunkMap, Error, GrowOptions, NewMap, NewSnapshot, Pool, SnapshotId,
    SnapshotKind,
};

const NAMES: u64 = 5;
const CHUNK_BYTES: u64 = 2 << 20;
/// Chunks of the guests' memory: maps without, with one and with two inner levels.
const MEMORY_CHUNKS: [u64; 3] = [1, 200, 600];

#[derive(Debug, Clone)]
pub(super) enum Step {
    Boot {
        process: usize,
        chunks: u64,
    },
    Write {
        vm: usize,
        place: (u32, u32),
        frames: u32,
        from: From,
    },
    Free {
        vm: usize,
        chunk: u32,
    },
    Snapshot {
        vm: usize,
        name: String,
        state_bytes: usize,
        reserve: u32,
        /// Removed by the same commit.
        replaced: Option<String>,
    },
    /// Some of the VM's frames become pages of a process image.
    Capture {
        vm: usize,
        name: String,
        first: usize,
        pages: usize,
        reserve: u32,
    },
    /// Pages of a process image become frames of the VM.
    Adopt {
        vm: usize,
        name: String,
        chunk: u32,
    },
    Restore {
        process: usize,
        name: String,
    },
    Pin {
        vm: usize,
        name: String,
    },
    Unpin {
        vm: usize,
        pin: usize,
    },
    UnpinOthers {
        vm: usize,
    },
    Consume {
        vm: usize,
    },
    Remove {
        process: usize,
        name: String,
    },
    Grow {
        process: usize,
        chunks: u64,
    },
    Scrub {
        process: usize,
    },
    Stop {
        vm: usize,
    },
    Close {
        process: usize,
    },
    Open {
        process: usize,
    },
    Kill {
        process: usize,
    },
}

/// Where new blocks come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    Anywhere,
    /// The same index of a chunk that is set aside.
    Beside,
    /// All frames of the chunk at once.
    WholeChunk,
    /// The same, of a chunk that may hold anything.
    ForCopy,
}

/// A random next step that makes sense now.
pub(super) fn next_step(random: &mut Random, world: &World) -> Step {
    let closed = world.processes.iter().position(Option::is_none);
    let opened = world.processes.iter().position(Option::is_some);
    let (Some(first), true) = (opened, closed.is_none() || !random.once_in(6)) else {
        return Step::Open {
            process: closed.unwrap_or(0),
        };
    };
    let process = random.below(PROCESSES as u64) as usize;
    let process = if world.processes[process].is_some() {
        process
    } else {
        first
    };
    let name = format!("s{}", random.below(NAMES));
    let vms: Vec<usize> = (0..VMS).filter(|vm| world.vms[*vm].is_some()).collect();
    if vms.is_empty() || (vms.len() < VMS && random.once_in(6)) {
        if is_saved(world, &name, SnapshotKind::Vm) {
            return Step::Restore { process, name };
        }
        return Step::Boot {
            process,
            chunks: random.pick(&MEMORY_CHUNKS),
        };
    }
    let vm = random.pick(&vms);
    match random.below(42) {
        0..=9 => write_step(random, world, vm),
        10 => Step::Free {
            vm,
            chunk: pick_chunk(random, world, vm),
        },
        11..=17 => Step::Snapshot {
            vm,
            name,
            state_bytes: random.pick(&[0, 100, 4096, 9000]),
            reserve: random.pick(&[0, 3, 12]),
            replaced: random
                .once_in(2)
                .then(|| format!("s{}", random.below(NAMES)))
                .filter(|replaced| world.saved.contains_key(replaced)),
        },
        18..=20 => Step::Consume { vm },
        21..=24 => Step::Remove { process, name },
        25 => Step::Pin { vm, name },
        26..=28 => Step::Unpin {
            vm,
            pin: random.below(4) as usize,
        },
        29 | 30 => Step::Stop { vm },
        31 if random.once_in(2) => Step::Grow {
            process,
            chunks: 2 + random.below(3),
        },
        31 => Step::Close { process },
        32 | 33 => Step::Scrub { process },
        34..=36 => Step::Capture {
            vm,
            name,
            first: random.below(30) as usize,
            pages: random.below(12) as usize,
            reserve: random.pick(&[0, 3, 12]),
        },
        37..=39 if is_saved(world, &name, SnapshotKind::Process) => Step::Adopt {
            vm,
            name,
            chunk: pick_chunk(random, world, vm),
        },
        37..=39 => write_step(random, world, vm),
        40 => Step::UnpinOthers { vm },
        _ => Step::Kill { process },
    }
}

fn is_saved(world: &World, name: &str, kind: SnapshotKind) -> bool {
    world
        .saved
        .get(name)
        .is_some_and(|saved| saved.kind == kind)
}

fn write_step(random: &mut Random, world: &World, vm: usize) -> Step {
    let from = match random.below(16) {
        0 => From::WholeChunk,
        1 => From::ForCopy,
        2..=6 => From::Beside,
        _ => From::Anywhere,
    };
    Step::Write {
        vm,
        place: (pick_chunk(random, world, vm), random.below(500) as u32),
        frames: 1 + random.below(4) as u32,
        from,
    }
}

fn pick_chunk(random: &mut Random, world: &World, vm: usize) -> u32 {
    let chunks = world.vms[vm]
        .as_ref()
        .map_or(1, |vm| vm.memory_bytes / CHUNK_BYTES) as u32;
    random.pick(&[0, 1, 199, 299, 599]).min(chunks - 1)
}

/// What the snapshots are once a step is done.
pub(super) fn intended(world: &World, step: &Step) -> Snapshots {
    let mut saved = world.saved.clone();
    match step {
        Step::Snapshot {
            vm,
            name,
            state_bytes,
            replaced,
            ..
        } => {
            if let Some(vm) = &world.vms[*vm] {
                if let Some(replaced) = replaced {
                    saved.remove(replaced);
                }
                let snapshot = Saved {
                    kind: SnapshotKind::Vm,
                    parent: vm.base,
                    memory_bytes: vm.memory_bytes,
                    frames: vm.frames.clone(),
                    state: state(name, *state_bytes),
                };
                saved.insert(name.clone(), Arc::new(snapshot));
            }
        }
        Step::Capture {
            vm,
            name,
            first,
            pages,
            ..
        } => {
            if let Some(vm) = &world.vms[*vm] {
                let taken = captured(vm, *first, *pages);
                let image = Saved {
                    kind: SnapshotKind::Process,
                    parent: vm.base,
                    memory_bytes: image_bytes(*pages),
                    frames: taken
                        .iter()
                        .map(|(page, place)| (*page, vm.frames[place]))
                        .collect(),
                    state: state(name, 300),
                };
                saved.insert(name.clone(), Arc::new(image));
            }
        }
        Step::Remove { name, .. } => drop(saved.remove(name)),
        Step::Consume { vm } => {
            let pool = world.vms[*vm]
                .as_ref()
                .map(|vm| (vm.base, vm.holder.pool()));
            if let Some((Some(id), pool)) = pool {
                let names = pool.snapshots().unwrap_or_default();
                let name = names.into_iter().find(|entry| entry.id == id);
                if let Some(entry) = name {
                    saved.remove(&entry.name);
                }
            }
        }
        _ => {}
    }
    saved
}

/// Which page of the image, as chunk and frame, is which frame of the VM: every other one, in
/// another order than in the VM.
fn captured(vm: &Vm, first: usize, pages: usize) -> Vec<((u32, u32), (u32, u32))> {
    let places = vm.frames.keys().copied().skip(first).take(pages);
    let numbers = (0..pages as u32)
        .rev()
        .map(|page| (2 * page / 512, 2 * page % 512));
    numbers.zip(places).collect()
}

fn image_bytes(pages: usize) -> u64 {
    (2 * pages.max(1) as u64) << 12
}

fn state(name: &str, bytes: usize) -> Vec<u8> {
    name.bytes().cycle().take(bytes).collect()
}

/// A refusal is a result; other errors are not.
fn or_refused(result: crate::Result<()>) -> Result<Outcome, String> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(
            Error::PoolFull { .. }
            | Error::TooManyPins { .. }
            | Error::Busy { .. }
            | Error::NameTaken { .. }
            | Error::NotFound { .. }
            | Error::NotPinned { .. }
            // Another process has made the pool larger meanwhile.
            | Error::InvalidSize { .. },
        ) => Ok(Outcome::Refused),
        Err(error) => Err(error.to_string()),
    }
}

impl World {
    /// Which process makes a step.
    pub(super) fn process_of(&self, step: &Step) -> Option<usize> {
        match step {
            Step::Boot { process, .. }
            | Step::Restore { process, .. }
            | Step::Remove { process, .. }
            | Step::Grow { process, .. }
            | Step::Scrub { process } => Some(*process),
            Step::Write { vm, .. }
            | Step::Free { vm, .. }
            | Step::Snapshot { vm, .. }
            | Step::Capture { vm, .. }
            | Step::Adopt { vm, .. }
            | Step::UnpinOthers { vm }
            | Step::Pin { vm, .. }
            | Step::Unpin { vm, .. }
            | Step::Consume { vm }
            | Step::Stop { vm } => self.vms[*vm].as_ref().map(|vm| vm.process),
            Step::Close { .. } | Step::Open { .. } | Step::Kill { .. } => None,
        }
    }

    /// Makes a step.
    pub(super) fn perform(&mut self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::Boot { process, chunks } => {
                or_refused(self.start(*process, chunks * CHUNK_BYTES, None))
            }
            Step::Restore { process, name } => or_refused(self.start(*process, 0, Some(name))),
            Step::Write {
                vm,
                place,
                frames,
                from,
            } => {
                let first_tag = self.take_tags(512);
                self.with_vm(*vm, |vm| vm.write(*place, *frames, *from, first_tag))
            }
            Step::Free { vm, chunk } => self.with_vm(*vm, |vm| vm.free(*chunk)),
            Step::Snapshot {
                vm,
                name,
                state_bytes,
                reserve,
                replaced,
            } => self.with_vm(*vm, |vm| {
                vm.snapshot(
                    name,
                    &state(name, *state_bytes),
                    *reserve,
                    replaced.as_deref(),
                )
            }),
            Step::Capture {
                vm,
                name,
                first,
                pages,
                reserve,
            } => self.with_vm(*vm, |vm| vm.capture(name, (*first, *pages), *reserve)),
            Step::Adopt { vm, name, chunk } => match self.saved.get(name).map(Arc::clone) {
                Some(image) => self.with_vm(*vm, |vm| vm.adopt(name, &image, *chunk)),
                None => Ok(Outcome::Refused),
            },
            Step::UnpinOthers { vm } => self.with_vm(*vm, Vm::unpin_others),
            Step::Pin { vm, name } => self.with_vm(*vm, |vm| vm.pin(name)),
            Step::Unpin { vm, pin } => self.with_vm(*vm, |vm| vm.unpin(*pin)),
            Step::Consume { vm } => self.with_vm(*vm, Vm::consume),
            Step::Remove { process, name } => match &self.processes[*process] {
                Some(process) => or_refused(process.pool.remove(name).map(|_| ())),
                None => Ok(Outcome::Refused),
            },
            Step::Grow { process, chunks } => match &self.processes[*process] {
                Some(process) => or_refused(grow(&process.pool, *chunks)),
                None => Ok(Outcome::Refused),
            },
            Step::Scrub { process } => match &self.processes[*process] {
                Some(process) => scrub(&process.pool).map(|()| Outcome::Done),
                None => Ok(Outcome::Refused),
            },
            Step::Stop { vm } => {
                self.vms[*vm] = None;
                Ok(Outcome::Done)
            }
            Step::Close { process } => {
                self.close(*process);
                Ok(Outcome::Done)
            }
            Step::Open { process } => or_refused(self.open(*process)),
            Step::Kill { process } => {
                self.bury(*process);
                Ok(Outcome::Done)
            }
        }
    }

    fn with_vm(
        &mut self,
        vm: usize,
        act: impl FnOnce(&mut Vm) -> crate::Result<()>,
    ) -> Result<Outcome, String> {
        self.vms[vm]
            .as_mut()
            .map_or(Ok(Outcome::Refused), |vm| or_refused(act(vm)))
    }

    fn start(
        &mut self,
        process: usize,
        memory_bytes: u64,
        name: Option<&str>,
    ) -> crate::Result<()> {
        let free = self.vms.iter().position(Option::is_none);
        let (Some(free), Some(place)) = (free, &self.processes[process]) else {
            return Ok(());
        };
        let holder = place.pool.hold("vm")?;
        let mut vm = Vm::new(holder, process, memory_bytes);
        if let Some(name) = name {
            vm.restore(name)?;
            if let Some(saved) = self.saved.get(name) {
                vm.frames.clone_from(&saved.frames);
            }
        }
        self.vms[free] = Some(vm);
        Ok(())
    }
}

/// Makes digests and compares those that there are: nothing may be found.
pub(super) fn scrub(pool: &Arc<Pool>) -> Result<(), String> {
    let report = pool.scrub(&mut |_| ControlFlow::Continue(()));
    let report = report.map_err(|error| error.to_string())?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(format!("scrub: {report:?}"))
    }
}

fn grow(pool: &Pool, chunks: u64) -> crate::Result<()> {
    let options = GrowOptions {
        size_bytes: pool.size_bytes() + chunks * CHUNK_BYTES,
        overcommit: false,
    };
    pool.grow(&options).map(|_| ())
}

impl Vm {
    fn restore(&mut self, name: &str) -> crate::Result<()> {
        let (entry, map) = self.holder.pin(name)?;
        for chunk in map.iter_present() {
            let (index, chunk) = chunk?;
            self.map.insert(index.get(), chunk.to_leaf());
        }
        self.memory_bytes = entry.memory_bytes;
        self.base = Some(entry.id);
        self.pins.push(entry.id);
        Ok(())
    }

    fn write(
        &mut self,
        (chunk, first): (u32, u32),
        frames: u32,
        from: From,
        tag: u64,
    ) -> crate::Result<()> {
        if let From::WholeChunk | From::ForCopy = from {
            let is_filled = matches!(from, From::ForCopy);
            let whole = if is_filled {
                self.holder.alloc_chunk_for_copy()?
            } else {
                self.holder.alloc_chunk()?
            };
            return (0..512).try_for_each(|frame| {
                let block = whole.block(frame);
                if !is_filled {
                    self.emptied(block)?;
                }
                self.let_go_of((chunk, frame));
                self.store((chunk, frame), block, tag + u64::from(frame))
            });
        }
        for frame in first..first + frames {
            let tag = tag + u64::from(frame - first);
            let mine = self
                .block(chunk, frame)
                .filter(|block| self.mine.contains(block));
            let block = match mine {
                Some(block) => block,
                None => self.fresh_block(frame, from)?,
            };
            self.store((chunk, frame), block, tag)?;
        }
        Ok(())
    }

    fn fresh_block(&mut self, frame: u32, from: From) -> crate::Result<BlockNo> {
        if let From::Beside = from {
            let aside = match self.aside {
                Some(aside) => aside,
                None => self.holder.lease_chunk()?,
            };
            self.aside = Some(aside);
            if self.holder.alloc_at(aside, frame) {
                return self.emptied(aside.block(frame));
            }
            self.holder.end_set_aside(aside);
            self.aside = None;
        }
        let block = self.holder.alloc_blocks(1)?[0];
        self.emptied(block)
    }

    /// A block that was just taken: nobody may see in it what another VM wrote.
    fn emptied(&self, block: BlockNo) -> crate::Result<BlockNo> {
        let mut bytes = [0; 4096];
        self.holder.pool().read_block(block, &mut bytes)?;
        if bytes == [0; 4096] {
            Ok(block)
        } else {
            Err(Error::damaged(format!("{block} was free, and holds bytes")))
        }
    }

    fn let_go_of(&mut self, (chunk, frame): (u32, u32)) {
        if let Some(block) = self.block(chunk, frame)
            && self.mine.remove(&block)
        {
            self.holder.free_blocks(&[block]);
        }
    }

    fn free(&mut self, chunk: u32) -> crate::Result<()> {
        if self.map.contains_key(&chunk) {
            for frame in 0..512 {
                self.let_go_of((chunk, frame));
                self.frames.remove(&(chunk, frame));
            }
            self.map.insert(chunk, crate::LeafBlocks::new());
            self.changed.insert(chunk);
        }
        Ok(())
    }

    fn snapshot(
        &mut self,
        name: &str,
        state: &[u8],
        reserve: u32,
        replaced: Option<&str>,
    ) -> crate::Result<()> {
        let replaced = replaced.map(|name| self.holder.pool().find(name));
        let replaced = replaced.transpose()?.map(|entry| entry.id);
        let changed = self
            .changed
            .iter()
            .filter_map(|chunk| Some((*chunk, self.map.get(chunk)?)));
        let changes: Vec<(ChunkIndex, ChunkMap)> = changed
            .map(|(chunk, leaf)| {
                (
                    ChunkIndex::new(chunk),
                    ChunkMap::Frames(Arc::new(leaf.clone())),
                )
            })
            .collect();
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: self.base,
            base: self.base,
            maps: vec![NewMap::memory(self.memory_bytes, &changes)],
            state,
            frames_new: 0,
        };
        let reservation = self.holder.reserve(reserve)?;
        let committed = self
            .holder
            .commit_replacing(new, replaced.as_slice(), reservation)?;
        self.base = Some(committed.id);
        self.pins.push(committed.id);
        self.changed.clear();
        self.mine.clear();
        self.images.clear();
        Ok(())
    }

    fn capture(
        &mut self,
        name: &str,
        (first, pages): (usize, usize),
        reserve: u32,
    ) -> crate::Result<()> {
        let taken = captured(self, first, pages);
        let mut leaf = crate::LeafBlocks::new();
        for ((_, page), (chunk, frame)) in &taken {
            leaf.set(*page, self.block(*chunk, *frame));
        }
        let changes = [(ChunkIndex::new(0), ChunkMap::Frames(Arc::new(leaf)))];
        let new = NewSnapshot {
            kind: SnapshotKind::Process,
            name,
            parent: self.base,
            base: None,
            maps: vec![NewMap::memory(image_bytes(pages), &changes)],
            state: &state(name, 300),
            frames_new: 0,
        };
        let reservation = self.holder.reserve(reserve)?;
        let committed = self.holder.commit_snapshot(new, reservation)?;
        self.images.insert(committed.id);
        self.pins.push(committed.id);
        for (_, (chunk, frame)) in taken {
            if let Some(block) = self.block(chunk, frame) {
                self.mine.remove(&block);
            }
        }
        Ok(())
    }

    fn adopt(&mut self, name: &str, image: &Saved, chunk: u32) -> crate::Result<()> {
        let (entry, map) = self.holder.pin(name)?;
        if !self.pins.contains(&entry.id) {
            self.pins.push(entry.id);
        }
        self.images.insert(entry.id);
        let pages = map.chunk(0)?;
        for (frame, block) in pages.iter_present() {
            let frame = frame.get();
            self.let_go_of((chunk, frame));
            self.map.entry(chunk).or_default().set(frame, Some(block));
            self.frames
                .insert((chunk, frame), image.frames[&(0, frame)]);
            self.changed.insert(chunk);
        }
        Ok(())
    }

    fn pin(&mut self, name: &str) -> crate::Result<()> {
        let (entry, _) = self.holder.pin(name)?;
        if !self.pins.contains(&entry.id) {
            self.pins.push(entry.id);
        }
        Ok(())
    }

    /// A pin that the VM's memory does not need.
    fn unpin(&mut self, pin: usize) -> crate::Result<()> {
        let spare = |id: &SnapshotId| Some(*id) != self.base && !self.images.contains(id);
        if let Some(id) = self.pins.iter().copied().filter(spare).nth(pin) {
            self.holder.unpin(id)?;
            self.pins.retain(|pinned| *pinned != id);
        }
        Ok(())
    }

    /// All pins but that of the base, which has all of the memory that the VM did not write since.
    fn unpin_others(&mut self) -> crate::Result<()> {
        let Some(base) = self.base.filter(|_| self.images.is_empty()) else {
            return Err(Error::NotPinned { id: 0 });
        };
        self.holder.unpin_others(base)?;
        self.pins.retain(|pinned| *pinned == base);
        Ok(())
    }

    /// Takes the snapshot that the memory is exactly that of.
    fn consume(&mut self) -> crate::Result<()> {
        let Some(id) = self.base.filter(|_| self.changed.is_empty()) else {
            return Err(Error::NotPinned { id: 0 });
        };
        let consumed = self.holder.consume(id)?;
        for chunk in consumed.memory() {
            let taken = chunk
                .map
                .iter_present()
                .filter(|(frame, _)| chunk.taken.contains(*frame));
            self.mine.extend(taken.map(|(_, block)| block));
            // The rest has holes where blocks were taken.
            self.changed.insert(chunk.index.get());
        }
        self.base = consumed.rest;
        if consumed.rest.is_none() {
            self.pins.retain(|pinned| *pinned != id);
        }
        Ok(())
    }
}

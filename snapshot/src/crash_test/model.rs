//! Processes and VMs on one simulated pool, and what they know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::contents::{Frames, Snapshots, difference, frame_with, read_snapshots};
use super::disks::{Disks, Drive, Expected, seen};
use super::oracle::open;
use crate::region::sim::{Fuse, Image, SimControl, region_with};
use crate::{BlockNo, ChunkNo, Holder, LeafBlocks, Pool, SnapshotId};

/// Two that die in turn, and one that sees both deaths.
pub(super) const PROCESSES: usize = 3;
pub(super) const VMS: usize = 4;

/// The result of a step in which nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The pool said no, as it may: it is full, or somebody uses the snapshot.
    Refused,
}

/// A process that has the pool open.
pub(super) struct Process {
    pub(super) pool: Arc<Pool>,
    pub(super) fuse: Fuse,
}

/// A VM: what its memory must be, and which blocks hold it.
pub(super) struct Vm {
    /// Before the holder: they end before it does.
    pub(super) drives: Vec<Drive>,
    pub(super) holder: Holder,
    pub(super) process: usize,
    pub(super) memory_bytes: u64,
    pub(super) frames: Frames,
    pub(super) map: BTreeMap<u32, LeafBlocks>,
    pub(super) own: BTreeSet<BlockNo>,
    pub(super) base: Option<SnapshotId>,
    pub(super) pins: Vec<SnapshotId>,
    /// Process images that its memory has blocks of, since the base.
    pub(super) images: BTreeSet<SnapshotId>,
    pub(super) changed: BTreeSet<u32>,
    pub(super) aside: Option<ChunkNo>,
}

pub(super) struct Model {
    pub(super) locks: tempfile::NamedTempFile,
    pub(super) control: SimControl,
    pub(super) processes: [Option<Process>; PROCESSES],
    pub(super) vms: [Option<Vm>; VMS],
    pub(super) saved: Snapshots,
    pub(super) disks: Disks,
    next_tag: u64,
}

impl Vm {
    pub(super) fn new(holder: Holder, process: usize, memory_bytes: u64) -> Vm {
        Vm {
            drives: Vec::new(),
            holder,
            process,
            memory_bytes,
            frames: Frames::new(),
            map: BTreeMap::new(),
            own: BTreeSet::new(),
            base: None,
            pins: Vec::new(),
            images: BTreeSet::new(),
            changed: BTreeSet::new(),
            aside: None,
        }
    }

    pub(super) fn block(&self, chunk: u32, frame: u32) -> Option<BlockNo> {
        self.map.get(&chunk)?.get(frame)
    }

    /// The guest's frame is behind this block from now on, and holds this.
    pub(super) fn store(
        &mut self,
        (chunk, frame): (u32, u32),
        block: BlockNo,
        tag: u64,
    ) -> crate::Result<()> {
        self.holder.write_block(block, &frame_with(tag))?;
        self.map.entry(chunk).or_default().set(frame, Some(block));
        self.own.insert(block);
        self.frames.insert((chunk, frame), tag);
        self.changed.insert(chunk);
        Ok(())
    }

    /// Checks that the VM still sees what it wrote.
    fn verify(&self) -> Result<(), String> {
        for ((chunk, frame), tag) in &self.frames {
            let block = self.block(*chunk, *frame).ok_or("a frame lost its block")?;
            let mut bytes = [0; 4096];
            let pool = self.holder.pool();
            pool.read_block(block, &mut bytes)
                .map_err(|error| error.to_string())?;
            if bytes != frame_with(*tag) {
                return Err(format!(
                    "{block}, a VM's chunk {chunk} frame {frame}, has changed"
                ));
            }
        }
        Ok(())
    }
}

impl Model {
    /// With a medium and nobody on it.
    pub(super) fn new(image: Image) -> Model {
        Model {
            locks: tempfile::NamedTempFile::new().unwrap(),
            control: region_with(image),
            processes: Default::default(),
            vms: Default::default(),
            saved: Snapshots::new(),
            disks: Disks::new(),
            next_tag: 1,
        }
    }

    /// The first of some tags that nothing is filled with yet.
    pub(super) fn take_tags(&mut self, count: u64) -> u64 {
        let first = self.next_tag;
        self.next_tag += count;
        first
    }

    /// The tag that a request to a disk writes.
    pub(super) fn next_tag(&self) -> u64 {
        self.next_tag
    }

    pub(super) fn open(&mut self, process: usize) -> crate::Result<()> {
        let (region, fuse) = self.control.handle();
        let pool = open(region, &self.locks)?;
        self.processes[process] = Some(Process { pool, fuse });
        Ok(())
    }

    /// Everyone of a process ends in order.
    pub(super) fn close(&mut self, process: usize) {
        for vm in self.vms.iter_mut() {
            if vm.as_ref().is_some_and(|vm| vm.process == process) {
                *vm = None;
            }
        }
        self.processes[process] = None;
    }

    /// A process dies: what its destructors write is lost, and the kernel drops its locks.
    pub(super) fn bury(&mut self, process: usize) {
        if let Some(process) = &self.processes[process] {
            process.fuse.kill();
        }
        self.close(process);
    }

    /// The power fails and comes back: all processes are gone, and this is what is left.
    pub(super) fn replace_medium(&mut self, image: Image) {
        (0..PROCESSES).for_each(|process| self.bury(process));
        self.control = region_with(image);
    }

    /// A pool to look through: of the first process that lives.
    pub(super) fn any_pool(&self) -> Option<&Arc<Pool>> {
        self.processes
            .iter()
            .flatten()
            .map(|process| &process.pool)
            .next()
    }

    /// Checks that living VMs see what they know, and that the pool is in order.
    pub(super) fn verify(&self) -> Result<(), String> {
        self.vms.iter().flatten().try_for_each(Vm::verify)?;
        for drive in self.vms.iter().flatten().flat_map(|vm| &vm.drives) {
            let found = seen(&drive.head).map_err(|error| error.to_string())?;
            let known = self
                .disks
                .get(&drive.name)
                .map(Expected::latest)
                .unwrap_or_default();
            if found != known {
                let name = &drive.name;
                return Err(format!("disk {name} has {found:?}, not {known:?}"));
            }
        }
        let Some(pool) = self.any_pool() else {
            return Ok(());
        };
        let report = pool.check().map_err(|error| error.to_string())?;
        if !report.is_clean() {
            return Err(format!("check: {:?}", report.findings));
        }
        let found = read_snapshots(pool)?;
        if found == self.saved {
            Ok(())
        } else {
            Err(difference(&self.saved, &found))
        }
    }
}

//! A small pool with two snapshots, for operations that are cut off everywhere.

use std::sync::Arc;

use super::contents::{Snapshots, frame_with, read_snapshots};
use super::disks::DISK_BYTES;
use super::oracle::{assert_in_order, leave_to_another_boot, open};
use crate::layout::Layout;
use crate::region::sim::{CrashPoint, Fuse, Image, SimControl, Survivors, region_with};
use crate::{
    BlockNo, ChunkIndex, ChunkMap, Holder, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotId,
    SnapshotKind,
};

const SIZE: u64 = 12 << 20;
const MEMORY: u64 = 600 * (2 << 20);

/// A pool on a simulated region, with a file for its locks.
pub(super) struct Bench {
    pub(super) locks: tempfile::NamedTempFile,
    pub(super) control: SimControl,
    pub(super) fuse: Fuse,
    pub(super) pool: Arc<Pool>,
}

impl Bench {
    fn new() -> Bench {
        let control = region_with(Image::zeros(SIZE));
        let layout = Layout::for_size(SIZE).unwrap();
        crate::pool::format(&control.handle().0, &layout, [7; 16], false).unwrap();
        Bench::on(control).unwrap()
    }

    /// Opens what is left of a medium when its host goes down at a point.
    pub(super) fn after(point: &CrashPoint, survivors: Survivors) -> crate::Result<Bench> {
        Bench::on(region_with(left_of(point, survivors)))
    }

    /// The same, with a record of what opening it does.
    pub(super) fn recorded_from(point: &CrashPoint, survivors: Survivors) -> crate::Result<Bench> {
        let control = region_with(left_of(point, survivors));
        control.record();
        Bench::on(control)
    }

    /// The last one closes the pool, and another one opens it.
    pub(super) fn closed_and_opened(self) -> Bench {
        let Bench { control, pool, .. } = self;
        drop(pool);
        Bench::on(control).unwrap()
    }

    fn on(control: SimControl) -> crate::Result<Bench> {
        let locks = tempfile::NamedTempFile::new().unwrap();
        let (region, fuse) = control.handle();
        let pool = open(region, &locks)?;
        Ok(Bench {
            locks,
            control,
            fuse,
            pool,
        })
    }

    /// The pool as another process has it.
    pub(super) fn neighbour(&self) -> (Arc<Pool>, Fuse) {
        let (region, fuse) = self.control.handle();
        (open(region, &self.locks).unwrap(), fuse)
    }
}

fn left_of(point: &CrashPoint, survivors: Survivors) -> Image {
    let mut image = point.image(survivors);
    leave_to_another_boot(&mut image);
    image
}

pub(super) fn fill(holder: &Holder, block: BlockNo, tag: u64) {
    holder.write_block(block, &frame_with(tag)).unwrap();
}

/// Frames of a chunk of memory in new blocks, all filled with one tag.
pub(super) fn frames(holder: &Holder, places: &[u32], tag: u64) -> ChunkMap {
    let blocks = holder.alloc_blocks(places.len() as u32).unwrap();
    let mut leaf = LeafBlocks::new();
    for (place, block) in places.iter().zip(blocks) {
        fill(holder, block, tag);
        leaf.set(*place, Some(block));
    }
    ChunkMap::Frames(Arc::new(leaf))
}

fn snapshot(
    holder: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(ChunkIndex, ChunkMap)],
) -> SnapshotId {
    let state = name.repeat(1000);
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(MEMORY, changes)],
        state: state.as_bytes(),
        frames_new: 0,
    };
    let reservation = holder.reserve(4).unwrap();
    holder.commit_snapshot(new, reservation).unwrap().id
}

pub(super) fn snapshots_of(pool: &Arc<Pool>) -> Snapshots {
    read_snapshots(pool).unwrap_or_else(|what| panic!("{what}"))
}

pub(super) fn must_be_in_order(pool: &Pool, what: &str) {
    assert_in_order(pool).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

/// Two snapshots that share frames, both pinned. The second is foreign.
pub(super) struct Fixture {
    pub(super) bench: Bench,
    pub(super) vm: Holder,
    pub(super) first: SnapshotId,
    pub(super) second: SnapshotId,
}

impl Fixture {
    pub(super) fn new() -> Fixture {
        let bench = Bench::new();
        let vm = bench.pool.hold("vm").unwrap();
        let near = frames(&vm, &[0, 1, 2, 3], 0x11);
        let far = frames(&vm, &[500], 0x12);
        let first = snapshot(
            &vm,
            "first",
            None,
            &[
                (ChunkIndex::new(0), near.clone()),
                (ChunkIndex::new(300), far),
            ],
        );
        let mut changed = near.to_leaf();
        // More than a commit takes for its metadata: bytes that were left in them must not be
        // overwritten by chance.
        let places: Vec<u32> = (1..2).chain(100..120).collect();
        for (place, block) in frames(&vm, &places, 0x21).iter_present() {
            changed.set(place, Some(block));
        }
        let changed = ChunkMap::Frames(Arc::new(changed));
        vm.mark_foreign();
        let second = snapshot(&vm, "second", Some(first), &[(ChunkIndex::new(0), changed)]);
        Fixture {
            bench,
            vm,
            first,
            second,
        }
    }
}

/// Takes a third snapshot, after the second.
pub(super) fn commit_third(vm: &Holder, second: SnapshotId) {
    let base = vm.frame_map(second).unwrap();
    let mut near = base.chunk(0).unwrap().to_leaf();
    near.set(7, frames(vm, &[7], 0x31).block(7));
    let near = ChunkMap::Frames(Arc::new(near));
    let far = frames(vm, &[9], 0x32);
    snapshot(
        vm,
        "third",
        Some(second),
        &[(ChunkIndex::new(0), near), (ChunkIndex::new(299), far)],
    );
}

/// A disk is made, written, flushed, and in a third snapshot; then it is written again, and in part
/// discarded.
pub(super) fn use_a_disk(bench: &Bench, vm: &Holder) {
    bench.pool.create_disk("data", DISK_BYTES).unwrap();
    let head = vm.attach_disk("data").unwrap();
    head.write(1000, &[1; 6000]).unwrap();
    head.flush().unwrap();
    head.write(512 * 4096, &[2; 4096]).unwrap();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "third",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(MEMORY, &[])],
        state: b"state",
        frames_new: 0,
    };
    let cuts = vec![head.cut().unwrap()];
    head.write(0, &[3; 512]).unwrap();
    let reservation = vm.reserve(4).unwrap();
    vm.commit_with_disks(new, cuts, &[], reservation).unwrap();
    head.write(4096, &[4; 8192]).unwrap();
    head.flush().unwrap();
    head.discard(0, 8192).unwrap();
    head.flush().unwrap();
}

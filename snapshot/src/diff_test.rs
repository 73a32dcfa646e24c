//! Differences are those of the content, wherever it lies.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{DiffReport, FrameRun};
use crate::{
    ChunkMap, CreateOptions, Error, Holder, LeafBlocks, NewSnapshot, Pool, SnapshotId, SnapshotKind,
};

const CHUNK: u64 = 2 << 20;

fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

struct Taken<'t> {
    name: &'t str,
    memory_chunks: u64,
    base: Option<SnapshotId>,
    /// Chunk, frame in it, and what it is filled with.
    frames: &'t [(u32, u32, u8)],
}

impl Taken<'_> {
    fn by(self, vm: &Holder) -> SnapshotId {
        let mut changes: Vec<(u32, LeafBlocks)> = Vec::new();
        for (chunk, frame, with) in self.frames {
            let block = vm.alloc_blocks(1).unwrap()[0];
            vm.write_block(block, &[*with; 4096]).unwrap();
            if changes.last().is_none_or(|(last, _)| last != chunk) {
                let before = self
                    .base
                    .map(|base| vm.frame_map(base).unwrap().chunk(*chunk).unwrap().to_leaf());
                changes.push((*chunk, before.unwrap_or_default()));
            }
            changes.last_mut().unwrap().1.set(*frame, Some(block));
        }
        let changes: Vec<(u32, ChunkMap)> = changes
            .into_iter()
            .map(|(chunk, leaf)| (chunk, ChunkMap::Frames(Arc::new(leaf))))
            .collect();
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name: self.name,
            parent: self.base,
            memory_bytes: self.memory_chunks * CHUNK,
            base: self.base,
            changes: &changes,
            state: b"state",
            frames_new: self.frames.len() as u64,
        };
        vm.commit_snapshot(new, vm.reserve(16).unwrap()).unwrap().id
    }
}

fn of_vm<'t>(name: &'t str, base: Option<SnapshotId>, frames: &'t [(u32, u32, u8)]) -> Taken<'t> {
    Taken {
        name,
        memory_chunks: 8,
        base,
        frames,
    }
}

fn diff(pool: &Arc<Pool>, names: [&str; 2]) -> DiffReport {
    pool.diff(names, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn run(frame: u64, frames: u64) -> FrameRun {
    FrameRun { frame, frames }
}

#[test]
fn what_differs_is_told_in_runs_and_what_is_shared_or_alike_is_not() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let first: Vec<(u32, u32, u8)> = vec![(0, 0, 1), (0, 5, 1), (0, 511, 1), (1, 0, 1), (3, 7, 1)];
    let base = of_vm("first", None, &first).by(&vm);
    // One frame is written with what it had, one with zeros where there was nothing.
    let then = [(0, 5, 1), (0, 511, 2), (1, 0, 3), (1, 1, 9), (5, 0, 0)];
    of_vm("then", Some(base), &then).by(&vm);
    let report = diff(&pool, ["first", "then"]);
    assert_eq!(report.different, [run(511, 3)]);
    assert_eq!(
        (report.frames_shared, report.frames_alike, report.frames_different),
        (2, 2, 3)
    );
    assert_eq!(diff(&pool, ["then", "first"]), report);
    assert_eq!(diff(&pool, ["then", "then"]).different, []);
}

#[test]
fn what_only_one_has_differs_from_zeros() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("small", None, &[(0, 0, 1)]).by(&vm);
    let large = Taken {
        memory_chunks: 16,
        ..of_vm("large", None, &[(0, 0, 1), (9, 2, 4), (9, 3, 0)])
    };
    large.by(&vm);
    let report = diff(&pool, ["small", "large"]);
    assert_eq!(report.different, [run(9 * 512 + 2, 1)]);
    assert_eq!((report.frames_shared, report.frames_alike), (0, 2));
}

#[test]
fn what_is_not_there_or_goes_meanwhile_is_refused() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("vm", None, &[(0, 0, 1)]).by(&vm);
    let refused = pool.diff(["vm", "none"], &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::NotFound { name, .. }) if name == "none"));
    // Nobody pins it any more.
    drop(vm);
    let gone = pool.diff(["vm", "vm"], &mut |_| {
        pool.remove("vm").unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(gone, Err(Error::NotFound { .. })));
}

#[test]
fn it_can_be_ended() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("a", None, &[(0, 0, 1), (2, 0, 1)]).by(&vm);
    of_vm("b", None, &[(0, 0, 2), (2, 0, 2)]).by(&vm);
    let report = pool.diff(["a", "b"], &mut |_| ControlFlow::Break(())).unwrap();
    assert!(report.interrupted);
    assert_eq!(report.different, [run(0, 1)]);
}

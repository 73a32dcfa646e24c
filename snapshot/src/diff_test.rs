//! Differences are those of the content, wherever it lies.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{DiffReport, FrameRun};
use crate::test_snapshot::{Taken, of_vm, pool};
use crate::{Error, MapKind, Pool};

fn diff(pool: &Arc<Pool>, names: [&str; 2]) -> DiffReport {
    pool.diff(names, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn run(frame: u64, frames: u64) -> FrameRun {
    FrameRun {
        map: MapKind::Memory,
        frame,
        frames,
    }
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
        (
            report.frames_shared,
            report.frames_alike,
            report.frames_different
        ),
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
    let report = pool
        .diff(["a", "b"], &mut |_| ControlFlow::Break(()))
        .unwrap();
    assert!(report.interrupted);
    assert_eq!(report.different, [run(0, 1)]);
}

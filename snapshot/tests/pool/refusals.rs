//! Impossible requests are refused, and change nothing.

use nvvmm_snapshot::*;

use crate::fixture::*;

/// Snapshots that a holder can pin.
const PINS: u32 = 12;
/// And what it can pin by name.
const PINS_BY_NAME: u32 = 11;

/// Gives the error of a commit that is tried.
type Attempt<'a> = dyn Fn(NewSnapshot<'_>) -> Error + 'a;

/// Blocks that commits are tried with.
struct Blocks {
    /// Frame 0 of snapshot `taken`, which has this id.
    committed: (SnapshotId, BlockNo),
    own: BlockNo,
    other_holder: BlockNo,
}

fn map_of(chunk: u32, block: BlockNo) -> [(ChunkIndex, ChunkMap); 1] {
    [(ChunkIndex::new(chunk), leaf(&[(0, block)]))]
}

fn based<'a>(base: SnapshotId, changes: &'a [(ChunkIndex, ChunkMap)]) -> NewSnapshot<'a> {
    NewSnapshot {
        base: Some(base),
        ..new("x", 2, changes)
    }
}

fn assert_names_are_refused(attempt: &Attempt<'_>, blocks: &Blocks) {
    let own_map = map_of(0, blocks.own);
    assert!(matches!(
        attempt(new("taken", 2, &own_map)),
        Error::NameTaken { .. }
    ));
    for name in ["", ".x", "-x", "a b", "a/b", "é", &"x".repeat(129)] {
        assert!(
            matches!(attempt(new(name, 2, &own_map)), Error::InvalidName { .. }),
            "{name}"
        );
    }
}

fn assert_maps_are_refused(attempt: &Attempt<'_>, blocks: &Blocks) {
    let (id, committed) = blocks.committed;
    let own_map = map_of(0, blocks.own);
    let foreign_map = map_of(0, blocks.other_holder);
    let committed_map = map_of(0, committed);
    let moved_map = map_of(1, committed);
    let beyond = map_of(2, blocks.own);
    let twice = [own_map[0].clone(), own_map[0].clone()];
    assert!(matches!(
        attempt(new("x", 2, &foreign_map)),
        Error::InvalidSnapshot { .. }
    ));
    assert!(
        matches!(
            attempt(new("x", 2, &committed_map)),
            Error::InvalidSnapshot { .. }
        ),
        "no base has it"
    );
    assert!(
        matches!(
            attempt(based(id, &moved_map)),
            Error::InvalidSnapshot { .. }
        ),
        "the base has it elsewhere"
    );
    assert!(matches!(
        attempt(new("x", 2, &beyond)),
        Error::InvalidSnapshot { .. }
    ));
    assert!(matches!(
        attempt(new("x", 2, &twice)),
        Error::InvalidSnapshot { .. }
    ));
}

fn assert_sizes_are_refused(attempt: &Attempt<'_>, blocks: &Blocks) {
    let own_map = map_of(0, blocks.own);
    let too_much = vec![1; (2 << 20) + 1];
    assert!(matches!(
        attempt(new("x", 0, &[])),
        Error::InvalidSnapshot { .. }
    ));
    let grown = NewSnapshot {
        base: Some(blocks.committed.0),
        ..new("x", 3, &own_map)
    };
    assert!(matches!(attempt(grown), Error::InvalidSnapshot { .. }));
    let fat = NewSnapshot {
        state: &too_much,
        ..new("x", 2, &own_map)
    };
    assert!(matches!(attempt(fat), Error::InvalidSnapshot { .. }));
}

#[test]
fn a_commit_that_fails_changes_nothing() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let other = pool.hold("other").unwrap();
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 0x42);
    let id = vm
        .commit_snapshot(new("taken", 2, &map_of(0, block)), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    let own = vm.alloc_blocks(1).unwrap()[0];
    let blocks = Blocks {
        committed: (id, block),
        own,
        other_holder: other.alloc_blocks(1).unwrap()[0],
    };
    let before = pool.status().unwrap();
    let attempt = |attempt: NewSnapshot<'_>| {
        vm.commit_snapshot(attempt, vm.reserve(3).unwrap())
            .unwrap_err()
    };

    assert_names_are_refused(&attempt, &blocks);
    assert_maps_are_refused(&attempt, &blocks);
    assert_sizes_are_refused(&attempt, &blocks);
    let foreign_base = based(id, &[]);
    let reserved = other.reserve(9).unwrap();
    assert!(matches!(
        other.commit_snapshot(foreign_base, reserved),
        Err(Error::NotPinned { .. })
    ));

    let reserved = vm.reserve(3).unwrap();
    let behind_own = own.chunk().block(own.index_in_chunk().get() + 1);
    let error = vm
        .commit_snapshot(new("x", 2, &map_of(0, behind_own)), reserved)
        .unwrap_err();
    assert!(error.to_string().contains("reserved"), "{error}");

    assert_clean(pool);
    let after = pool.status().unwrap();
    assert_eq!(
        (after.snapshot_blocks, after.generation),
        (before.snapshot_blocks, before.generation)
    );
    assert_eq!(
        after.holders[0].blocks_in_use, 1,
        "only what was its own before"
    );
    vm.commit_snapshot(based(id, &map_of(0, own)), vm.reserve(0).unwrap())
        .unwrap();
    assert_eq!(content(pool, block), 0x42);
}

#[test]
fn names_and_limits_are_told() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let many: Vec<String> = (0..PINS_BY_NAME - 4)
        .map(|number| format!("many-{number}"))
        .collect();
    let few = ["nightly-1", "nightly-2", "before-upgrade", "x"];
    let pinned: Vec<&str> = few
        .into_iter()
        .chain(many.iter().map(String::as_str))
        .collect();
    for name in pinned.iter().copied().chain(["y"]) {
        let id = vm
            .commit_snapshot(new(name, 1, &[]), vm.reserve(0).unwrap())
            .unwrap()
            .id;
        vm.unpin(id).unwrap();
    }
    let error = pool.find("nighly-1").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("'nighly-1'") && text.contains(&pool.path().display().to_string()),
        "{text}"
    );
    assert!(
        matches!(&error, Error::NotFound { near, .. } if near.contains(&"nightly-1".to_owned())
            && !near.contains(&"before-upgrade".to_owned())),
        "{error:?}"
    );
    for name in pinned {
        vm.pin(name).unwrap();
        vm.pin(name).unwrap();
    }
    assert!(matches!(
        vm.pin("y"),
        Err(Error::TooManyPins {
            count: PINS_BY_NAME
        })
    ));
    let id = pool.find("x").unwrap().id;
    vm.unpin(id).unwrap();
    assert!(matches!(vm.unpin(id), Err(Error::NotPinned { .. })));
    vm.pin("y").unwrap();

    let holders: Vec<Holder> = (0..255)
        .map(|at| pool.hold(&format!("holder-{at}")).unwrap())
        .collect();
    assert!(matches!(
        pool.hold("one-more"),
        Err(Error::TooManyHolders { count: 256 })
    ));
    assert_eq!(pool.status().unwrap().holders.len(), 256);
    drop(holders);
    assert_eq!(pool.status().unwrap().holders.len(), 1);
    assert!(matches!(
        pool.hold("no good"),
        Err(Error::InvalidName { .. })
    ));
}

#[test]
fn creating_refuses_what_cannot_be() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let create = |size_bytes, overcommit| {
        Pool::create(
            &path,
            &CreateOptions {
                size_bytes,
                overcommit,
            },
        )
    };
    for size in [0, 4 << 20, (8 << 20) + 4096, 1 << 45] {
        assert!(
            matches!(create(size, true), Err(Error::InvalidSize { .. })),
            "{size}"
        );
    }
    assert!(matches!(
        create(8 << 40, false),
        Err(Error::NoSpaceOnMedium { .. })
    ));
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    let pool = create(8 << 20, false).unwrap();
    assert!(matches!(create(8 << 20, false), Err(Error::Exists { .. })));
    assert_eq!(
        (
            pool.status().unwrap().free_blocks,
            pool.status().unwrap().overcommit
        ),
        (3 * 512, false)
    );
    drop(pool);
    std::fs::remove_file(&path).unwrap();

    // Sixteen TiB of promises cost next to nothing.
    let pool = create(16 << 40, true).unwrap();
    let vm = pool.hold("vm").unwrap();
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 1);
    vm.commit_snapshot(
        new("small", 1, &[(ChunkIndex::new(0), leaf(&[(5, block)]))]),
        vm.reserve(0).unwrap(),
    )
    .unwrap();
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!((status.total_blocks, status.overcommit), (1 << 32, true));
    // The chunk table is the one thing that is there from the start.
    assert!(status.medium_bytes < 70 << 20, "{status:?}");
}

#[test]
fn a_commit_that_cannot_be_pinned_is_none() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    for number in 0..PINS {
        vm.commit_snapshot(new(&format!("s{number}"), 1, &[]), vm.reserve(4).unwrap())
            .unwrap();
    }
    let before = pool.snapshots().unwrap();
    let refused = vm.commit_snapshot(new("e", 1, &[]), vm.reserve(4).unwrap());
    assert!(
        matches!(refused, Err(Error::TooManyPins { count: PINS })),
        "{refused:?}"
    );
    assert_eq!(pool.snapshots().unwrap(), before);
    assert_clean(pool);
}

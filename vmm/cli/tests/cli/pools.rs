//! Commands for pools and snapshots.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotId,
    SnapshotKind,
};
use serde_json::Value;

use crate::world::{Finished, World};

#[test]
fn a_pool_is_made_looked_at_and_checked() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    let made = world.nvvmm(&["pool", "create", pool, "--size", "64M"]);
    assert!(
        made.done().contains(pool) && made.stdout.contains("64.0 MiB"),
        "{}",
        made.stdout
    );
    world
        .nvvmm(&["pool", "create", pool, "--size", "64M"])
        .refused(4, "exists already");
    let status = world.nvvmm(&["pool", "status", pool, "--json"]).json();
    assert_eq!(status["size_bytes"], 64 << 20);
    let upgraded = world.nvvmm(&["pool", "upgrade", pool]);
    assert!(
        upgraded
            .done()
            .ends_with("has format version 8, the newest\n")
    );
    let text = world.nvvmm(&["pool", "status", pool]);
    for needed in [pool, "64.0 MiB", "userfaultfd"] {
        assert!(text.done().contains(needed), "{needed}: {}", text.stdout);
    }
    assert!(
        world
            .nvvmm(&["pool", "check", pool])
            .done()
            .contains("no findings")
    );
    assert_eq!(
        world.nvvmm(&["snapshots", "--pool", pool]).done(),
        "no snapshots\n"
    );
    assert_eq!(
        world.nvvmm(&["snapshots", "--pool", pool, "--json"]).json(),
        serde_json::json!([])
    );
    world
        .nvvmm(&["rm", "ghost", "--pool", pool])
        .refused(3, "no snapshot 'ghost'");
    let from_environment = world
        .command(&["pool", "check"])
        .env("NVVMM_POOL", pool)
        .output()
        .unwrap();
    assert!(Finished::from(from_environment).done().contains(pool));
}

#[test]
fn a_pool_is_made_larger_and_never_smaller() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "16M"])
        .done();
    let grown = world.nvvmm(&["pool", "grow", pool, "--size", "32M"]);
    assert_eq!(
        grown.done(),
        format!("the pool {pool} has 32.0 MiB now, 14.0 MiB of it new and free\n")
    );
    let more = world
        .nvvmm(&["pool", "grow", pool, "--size", "+6M", "--json"])
        .json();
    assert_eq!(
        more,
        serde_json::json!({
            "pool": pool,
            "size_before_bytes": 32 << 20,
            "size_bytes": 38 << 20,
            "added_bytes": 4 << 20
        })
    );
    for (size, why) in [
        ("16M", "larger"),
        ("38M", "larger"),
        ("+2M", "4 MiB or more"),
    ] {
        world
            .nvvmm(&["pool", "grow", pool, "--size", size])
            .refused(2, why);
    }
    world
        .nvvmm(&["pool", "grow", pool, "--size", "15T"])
        .refused(5, "--overcommit");
    let status = world.nvvmm(&["pool", "status", pool, "--json"]).json();
    assert_eq!(status["size_bytes"], 38 << 20);
    assert_eq!(status["free_bytes"], (7 + 7 + 2) * 512 * 4096);
    assert!(
        world
            .nvvmm(&["pool", "check", pool])
            .done()
            .contains("no findings")
    );
    world
        .nvvmm(&["pool", "grow", "/none", "--size", "16M"])
        .refused(3, "/none");
}

#[test]
fn a_pool_is_deleted_when_nobody_uses_it() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    world.nvvmm(&["pool", "create", pool]).refused(2, "--size");
    world.nvvmm(&["pool", "delete", pool]).refused(3, pool);
    world
        .nvvmm(&["pool", "create", pool, "--size", "32M"])
        .done();
    let user = Pool::open(&path).unwrap();
    world.nvvmm(&["pool", "delete", pool]).refused(4, "in use");
    drop(user);
    assert!(
        world
            .nvvmm(&["pool", "delete", pool])
            .done()
            .contains("deleted")
    );
    assert!(!path.exists());
    fs::write(&path, "no pool".repeat(10 << 20)).unwrap();
    world
        .nvvmm(&["pool", "delete", pool])
        .refused(6, "is not a pool");
    assert!(path.exists());
}

#[test]
fn a_pool_larger_than_its_medium_ends_with_5() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "15T"])
        .refused(5, "--overcommit");
    assert!(!Path::new(pool).exists());
}

#[test]
fn what_is_no_pool_ends_with_6() {
    let world = World::new();
    let file = world.path("text");
    fs::write(&file, "this is no pool\n".repeat(100_000)).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["snapshots", "--pool", file][..],
        &["rm", "s", "--pool", file],
        &["pool", "status", file],
        &["pool", "check", file],
    ] {
        world.nvvmm(arguments).refused(6, "is not a pool");
    }
}

/// Commits a snapshot of a 4 MiB memory whose first frame is new.
pub fn commit(holder: &Holder, name: &str, base: Option<SnapshotId>) -> SnapshotId {
    let mut leaf = LeafBlocks::default();
    leaf.set(0, holder.alloc_blocks(1).unwrap().first().copied());
    let changes = [(ChunkIndex::new(0), ChunkMap::Frames(Arc::new(leaf)))];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(4 << 20, &changes)],
        state: b"state",
        frames_new: 1,
    };
    let reservation = holder
        .reserve(holder.commit_blocks_needed(4 << 20, 1, 5))
        .unwrap();
    holder.commit_snapshot(new, reservation).unwrap().id
}

pub fn small_pool(path: &Path) -> Arc<Pool> {
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    Pool::create(path, &options).unwrap()
}

#[test]
fn snapshots_are_listed_and_removed_also_while_a_vm_uses_them() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    let base = commit(&holder, "base", None);
    let second = commit(&holder, "second", Some(base));
    let path = path.to_str().unwrap();

    let text = world.nvvmm(&["snapshots", "--pool", path]);
    let names: Vec<&str> = text
        .done()
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(names, ["NAME", "base", "└─ second"]);
    let listed = world.nvvmm(&["snapshots", "--pool", path, "--json"]).json();
    assert_eq!(
        (listed[1]["snapshot"].as_str(), &listed[1]["parent_id"]),
        (Some("second"), &listed[0]["snapshot_id"])
    );
    let status = world.nvvmm(&["pool", "status", path]);
    assert!(status.done().contains("web"), "{}", status.stdout);

    let removed = world.nvvmm(&["rm", "ghost", "base", "phantom", "--pool", path]);
    assert_eq!(removed.code, 3);
    assert!(
        removed
            .stdout
            .starts_with("removed base; a running VM still uses it"),
        "{}",
        removed.stdout
    );
    assert!(
        removed.stderr.contains("'ghost'") && removed.stderr.contains("'phantom'"),
        "{}",
        removed.stderr
    );
    holder.unpin(base).unwrap();
    holder.unpin(second).unwrap();
    let removed = world
        .nvvmm(&["rm", "second", "--json", "--pool", path])
        .json();
    assert_eq!(
        (
            removed[0]["snapshot"].as_str(),
            removed[0]["deferred"].as_bool()
        ),
        (Some("second"), Some(false))
    );
    assert!(removed[0]["freed_bytes"].as_u64().unwrap() > 0);
    drop(holder);
    assert_eq!(
        world.nvvmm(&["snapshots", "--pool", path]).done(),
        "no snapshots\n"
    );
    world.nvvmm(&["pool", "check", path]).done();
}

#[test]
fn a_damaged_pool_has_findings_and_ends_with_6() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    let block_of_state = {
        commit(&holder, "base", None);
        let bytes = fs::read(&path).unwrap();
        bytes
            .windows(5)
            .position(|window| window == b"state")
            .unwrap()
    };
    drop(holder);
    drop(pool);
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(block_of_state as u64)).unwrap();
    file.write_all(b"STATE").unwrap();
    drop(file);
    let path = path.to_str().unwrap();
    let checked = world.nvvmm(&["pool", "check", path]);
    assert_eq!((checked.code, checked.stderr.as_str()), (6, ""));
    assert!(
        checked.stdout.contains("1 finding in"),
        "{}",
        checked.stdout
    );
    let checked = world.nvvmm(&["pool", "check", path, "--json"]);
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(
        (checked.code, report["findings"].as_array().map(Vec::len)),
        (6, Some(1))
    );
}

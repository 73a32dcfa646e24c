//! Several real processes on one pool, some of which are killed.
//!
//! A child process is this test binary again, running only `child`.

#![allow(clippy::unwrap_used)]

mod place;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nvvmm_snapshot::{
    BlockNo, ChunkIndex, ChunkMap, Error, GrowOptions, Holder, LeafBlocks, NewMap, NewSnapshot,
    Pool, SnapshotId, SnapshotKind,
};

use crate::place::PoolPlace;

const ROLE: &str = "NVVMM_TEST_ROLE";
const POOL: &str = "NVVMM_TEST_POOL";
const CHUNK: u64 = 2 << 20;
const MEMORY: u64 = 300 * CHUNK;

fn spawn(role: &str, pool: &Path) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, role)
        .env(POOL, pool)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    Running { child, lines }
}

/// A child process; killed when it is dropped.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if line.contains(word) {
                return;
            }
            line.clear();
        }
        panic!("the child ended before it said '{word}'");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Does nothing unless it was started by another test.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let path = PathBuf::from(std::env::var(POOL).unwrap());
    let pool = Pool::open(&path).unwrap();
    match role.as_str() {
        "hold" => hold_for_ever(&pool),
        "churn" => churn_for_ever(&pool),
        "fill" => fill_twice(&pool),
        other => panic!("unknown role {other}"),
    }
}

fn take(
    holder: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    with: u8,
) -> Result<SnapshotId, Error> {
    let blocks: Vec<BlockNo> = holder.alloc_blocks(40)?;
    let mut leaves = [LeafBlocks::new(), LeafBlocks::new()];
    for (at, block) in (0u32..).zip(&blocks) {
        holder.write_block(*block, &[with; 4096])?;
        leaves[(at % 2) as usize].set(at * 3, Some(*block));
    }
    let [near, far] = leaves.map(|leaf| ChunkMap::Frames(Arc::new(leaf)));
    let changes = [(ChunkIndex::new(1), near), (ChunkIndex::new(290), far)];
    let state = vec![with; 5000];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(MEMORY, &changes)],
        state: &state,
        frames_new: 40,
    };
    let done = holder
        .reserve(0)
        .and_then(|reservation| holder.commit_snapshot(new, reservation))
        .map(|committed| committed.id);
    if done.is_err() {
        holder.free_blocks(&blocks);
    }
    done
}

/// A VM that was restored, has written, has taken a snapshot and written again.
fn hold_for_ever(pool: &Arc<Pool>) {
    let vm = pool.hold("doomed").unwrap();
    let (entry, _map) = vm.pin("base").unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    chunk
        .blocks()
        .for_each(|block| vm.write_block(block, &[0xdd; 4096]).unwrap());
    take(&vm, "taken-by-the-doomed", Some(entry.id), 0x44).unwrap();
    let blocks = vm.alloc_blocks(100).unwrap();
    blocks
        .iter()
        .for_each(|block| vm.write_block(*block, &[0xee; 4096]).unwrap());
    let _reserved = vm.reserve(20).unwrap();
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

/// Takes and removes snapshots as fast as it can.
fn churn_for_ever(pool: &Arc<Pool>) {
    let vm = pool.hold("churn").unwrap();
    let process = std::process::id();
    let mut taken: Vec<(String, SnapshotId)> = Vec::new();
    println!("ready");
    for turn in 0u32.. {
        let name = format!("{process}-{turn}");
        let base = taken.last().map(|(_, id)| *id);
        match take(&vm, &name, base, (turn % 255) as u8 + 1) {
            Ok(id) => {
                if let Some(base) = base {
                    vm.unpin(base).unwrap();
                }
                taken.push((name, id));
            }
            Err(Error::PoolFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if taken.len() > 3 || turn % 5 == 4 {
            if taken.is_empty() {
                continue;
            }
            let (name, _) = taken.remove(turn as usize % taken.len().max(2) / 2);
            pool.remove(&name).unwrap();
            // What was pinned is the last one: the next snapshot starts from nothing when that is
            // gone.
            if taken.is_empty() {
                vm.pin("base").unwrap();
            }
        }
    }
}

/// A VM that finds the pool full, waits, and goes on when it is not.
fn fill_twice(pool: &Arc<Pool>) {
    let vm = pool.hold("filler").unwrap();
    let mut filled = 0u32;
    let mut said = false;
    loop {
        match vm.alloc_chunk() {
            Ok(chunk) => {
                vm.write_block(chunk.block(9), &[0x99; 4096]).unwrap();
                filled += 1;
            }
            Err(Error::PoolFull { .. }) if !said => {
                println!("full with {filled}");
                said = true;
            }
            Err(Error::PoolFull { .. }) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
        if said && filled == 20 {
            take(&vm, "beyond", None, 0x55).unwrap();
            println!("filled again");
            std::thread::sleep(Duration::from_secs(600));
        }
    }
}

fn pool_with_base(place: &PoolPlace, size_bytes: u64) -> Arc<Pool> {
    let pool = place.create(size_bytes);
    let maker = pool.hold("maker").unwrap();
    take(&maker, "base", None, 0x77).unwrap();
    drop(maker);
    pool
}

/// Every frame of a snapshot holds what its state says.
fn verify_all(pool: &Arc<Pool>) -> usize {
    let reader = pool.hold("reader").unwrap();
    let entries = pool.snapshots().unwrap();
    for entry in &entries {
        let (_, map) = match reader.pin(&entry.name) {
            Err(Error::NotFound { .. }) => continue,
            pinned => pinned.unwrap(),
        };
        let state = pool.read_state(entry.id).unwrap();
        assert_eq!(state, vec![state[0]; 5000]);
        let mut frames = 0;
        for chunk in map.iter_present() {
            for (_, block) in chunk.unwrap().1.iter_present() {
                let mut bytes = [0; 4096];
                pool.read_block(block, &mut bytes).unwrap();
                assert_eq!(bytes, [state[0]; 4096], "{block} of {}", entry.name);
                frames += 1;
            }
        }
        assert_eq!(frames, 40, "{}", entry.name);
        reader.unpin(entry.id).unwrap();
    }
    entries.len()
}

fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[test]
fn what_a_killed_process_held_is_free_again() {
    let place = PoolPlace::new();
    let pool = pool_with_base(&place, 32 << 20);
    let before = pool.status().unwrap();
    let mut doomed = spawn("hold", pool.path());
    doomed.wait_for("ready");

    let status = pool.status().unwrap();
    assert_eq!(status.holders.len(), 1);
    assert_eq!(
        (status.holders[0].name.as_str(), status.holders[0].pid),
        ("doomed", doomed.child.id())
    );
    assert_eq!(status.holders[0].blocks_in_use, 512 + 100 + 20);
    assert!(
        pool.remove("base").unwrap().deferred,
        "it is pinned by the other process"
    );
    let taken = pool.find("taken-by-the-doomed").unwrap();
    let other = pool.hold("other").unwrap();
    other.pin("taken-by-the-doomed").unwrap();
    let refused = other.consume(taken.id);
    assert!(matches!(refused, Err(Error::Busy { holder, .. }) if holder.contains("doomed")));
    assert_clean(&pool);

    doomed.kill();
    // Now nobody is in the way any more, also before anyone cleaned up.
    let consumed = other.consume(taken.id).unwrap();
    assert!(consumed.rest.is_none());
    assert_eq!(
        consumed
            .memory()
            .iter()
            .map(|chunk| chunk.taken.count())
            .sum::<u32>(),
        40
    );
    let status = pool.status().unwrap();
    assert_eq!(
        (status.holders.len(), status.orphans, status.snapshots),
        (1, 0, 0)
    );
    assert_clean(&pool);
    drop(other);
    let after = pool.status().unwrap();
    assert!(after.free_blocks > before.free_blocks);
    assert_eq!(
        after.free_blocks,
        after.total_blocks - after.metadata_blocks
    );
    assert!(
        !place.takes_back_blocks || after.medium_bytes < before.medium_bytes + (1 << 20),
        "dead blocks were not given back"
    );
}

#[test]
fn the_next_opener_recovers_when_nobody_was_left() {
    let place = PoolPlace::new();
    let path = place.path().to_owned();
    let free = {
        let pool = pool_with_base(&place, 32 << 20);
        pool.status().unwrap().free_blocks
    };
    for _ in 0..3 {
        let mut doomed = spawn("hold", &path);
        doomed.wait_for("ready");
        doomed.kill();
        let pool = Pool::open(&path).unwrap();
        assert_clean(&pool);
        assert_eq!(verify_all(&pool), 2);
        pool.remove("taken-by-the-doomed").unwrap();
        assert_eq!(pool.status().unwrap().free_blocks, free);
    }
}

/// Kills processes that do nothing but commit, at all kinds of moments.
fn kill_churning(keep_open: bool, rounds: u64) {
    let place = PoolPlace::new();
    let path = place.path().to_owned();
    let mut kept = Some(pool_with_base(&place, 48 << 20));
    for round in 0..rounds {
        if !keep_open {
            kept = None;
        }
        let mut children = [spawn("churn", &path), spawn("churn", &path)];
        children
            .iter_mut()
            .for_each(|child| child.wait_for("ready"));
        // Any moment will do: no assertion depends on which.
        std::thread::sleep(Duration::from_micros(2000 + round * 7919 % 30_000));
        children[0].kill();
        if let Some(pool) = &kept {
            // The other one goes on while the dead one's things are taken back.
            assert!(pool.status().unwrap().holders.len() <= 1);
            assert_clean(pool);
        }
        children[1].kill();
        let pool = kept.take().unwrap_or_else(|| Pool::open(&path).unwrap());
        let status = pool.status().unwrap();
        assert_eq!(
            (status.holders.len(), status.orphans, status.leased_blocks),
            (0, 0, 0),
            "round {round}"
        );
        assert_clean(&pool);
        assert!(verify_all(&pool) >= 1);
        for entry in pool
            .snapshots()
            .unwrap()
            .iter()
            .filter(|entry| entry.name != "base")
        {
            pool.remove(&entry.name).unwrap();
        }
        assert_clean(&pool);
        kept = Some(pool);
    }
    let pool = kept.unwrap();
    pool.remove("base").unwrap();
    let status = pool.status().unwrap();
    assert_eq!(
        status.free_blocks,
        status.total_blocks - status.metadata_blocks
    );
}

#[test]
fn killing_committers_under_a_living_user() {
    kill_churning(true, 12);
}

#[test]
fn killing_committers_until_nobody_is_left() {
    kill_churning(false, 12);
}

#[test]
fn a_process_uses_what_another_one_added_without_opening_again() {
    let place = PoolPlace::new();
    let pool = pool_with_base(&place, 16 << 20);
    let mut filler = spawn("fill", pool.path());
    filler.wait_for("full with 6");
    // In steps, each of which adds less than what is waited for.
    for size_bytes in [24 << 20, 32 << 20, 56 << 20] {
        let options = GrowOptions {
            size_bytes,
            overcommit: false,
        };
        pool.grow(&options).unwrap();
        assert_clean(&pool);
    }
    filler.wait_for("filled again");
    assert_eq!(pool.status().unwrap().size_bytes, 56 << 20);
    assert_eq!(verify_all(&pool), 2);
    assert_clean(&pool);
    filler.kill();
    assert_eq!(verify_all(&pool), 2);
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!((status.holders.len(), status.leased_blocks), (0, 0));
}

#[test]
fn threads_share_a_pool_and_a_holder() {
    let place = PoolPlace::new();
    let pool = pool_with_base(&place, 64 << 20);
    let shared = pool.hold("shared").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let (pool, shared) = (&pool, &shared);
            scope.spawn(move || {
                let own = Pool::open(pool.path()).unwrap();
                let vm = own.hold("vm").unwrap();
                for turn in 0..15u8 {
                    let name = format!("{thread}-{turn}");
                    let id = take(&vm, &name, None, turn + 1).unwrap();
                    let mut blocks = shared.alloc_blocks(30).unwrap();
                    blocks
                        .iter()
                        .for_each(|block| shared.write_block(*block, &[thread + 1; 4096]).unwrap());
                    let chunk = shared.lease_chunk().unwrap();
                    for index in (0..512).step_by(17) {
                        assert!(shared.alloc_at(chunk, index) && !shared.alloc_at(chunk, index));
                        blocks.push(chunk.block(index));
                    }
                    shared.end_set_aside(chunk);
                    vm.unpin(id).unwrap();
                    if turn % 2 == 0 {
                        own.remove(&name).unwrap();
                    }
                    for block in &blocks[..30] {
                        let mut bytes = [0; 4096];
                        pool.read_block(*block, &mut bytes).unwrap();
                        assert_eq!(
                            bytes,
                            [thread + 1; 4096],
                            "{block} was given to two threads"
                        );
                    }
                    shared.free_blocks(&blocks);
                }
            });
        }
    });
    assert_eq!(verify_all(&pool), 1 + 3 * 7);
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!(
        (
            status.holders.len(),
            status.holders[0].blocks_in_use,
            status.leased_blocks
        ),
        (1, 0, 0)
    );
}

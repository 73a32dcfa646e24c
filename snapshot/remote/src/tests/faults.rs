//! Stores that fail, lie, lose answers, and pushes that die.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use nvvmm_snapshot::Pool;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::moving::{pull, push};
use super::pools::*;
use super::stores::*;
use crate::{Error, GcOptions, Store, Use};

fn hooked(
    memory: &Arc<InMemory>,
    hook: impl Fn(Request, &str) -> Fate + Send + Sync + 'static,
) -> Result<Store, Error> {
    let store = Hooked::new(memory, hook);
    let mut store = Store::on(store, Path::default(), "hooked", None, Use::Existing)?;
    store.objects = store.objects.with_parallel(1);
    // Each piece is a pack: more requests can fail.
    store.pack_bytes = 1;
    Ok(store)
}

fn source() -> Bench {
    let bench = pool_of(32 << 20);
    take(&bench.pool, "a", &sparse());
    bench
}

fn assert_pulled(store: &Store, pool: &Arc<Pool>) {
    pull(store, pool, "a").unwrap();
    assert_eq!(contents(pool, "a"), sparse());
    assert_clean(pool);
    pool.remove("a").unwrap();
}

/// A generator of random numbers (splitmix64).
pub(super) fn random(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[test]
fn with_one_request_in_twenty_failing_a_snapshot_arrives_in_the_end() {
    let (from, to) = (source(), pool_of(32 << 20));
    for seed in 0..20 {
        let (memory, _) = in_memory(None);
        let state = AtomicU64::new(seed);
        // The store itself is opened without faults.
        let is_open = Arc::new(AtomicBool::new(false));
        let fails = Arc::clone(&is_open);
        let store = hooked(&memory, move |_, _| match random(&state) % 40 {
            0 if fails.load(Ordering::Relaxed) => Fate::Lost,
            1 if fails.load(Ordering::Relaxed) => Fate::DoneUnheard,
            _ => Fate::Done,
        });
        let store = store.unwrap();
        is_open.store(true, Ordering::Relaxed);
        let attempts = (0..100).find(|_| push(&store, &from.pool, "a").is_ok());
        assert!(attempts.is_some(), "seed {seed}");
        let attempts = (0..100).find(|_| pull(&store, &to.pool, "a").is_ok());
        assert!(attempts.is_some(), "seed {seed}");
        assert_eq!(contents(&to.pool, "a"), sparse());
        assert_clean(&to.pool);
        to.pool.remove("a").unwrap();
    }
}

#[test]
fn what_is_cut_off_or_changed_on_its_way_is_refused_and_leaves_nothing() {
    let (from, to) = (source(), pool_of(32 << 20));
    let (memory, good) = in_memory(None);
    push(&good, &from.pool, "a").unwrap();
    for fate in [Fate::Truncated, Fate::Flipped] {
        let mut refused = 0;
        for number in 0.. {
            let count = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&count);
            let store = hooked(&memory, move |request, _| {
                let is_chosen =
                    request == Request::Get && seen.fetch_add(1, Ordering::Relaxed) == number;
                if is_chosen { fate } else { Fate::Done }
            });
            let pulled = store.and_then(|store| pull(&store, &to.pool, "a"));
            if count.load(Ordering::Relaxed) <= number {
                assert!(pulled.is_ok(), "{pulled:?}");
                to.pool.remove("a").unwrap();
                break;
            }
            assert!(matches!(pulled, Err(Error::Damaged { .. })), "{pulled:?}");
            assert!(to.pool.entries().unwrap().is_empty(), "request {number}");
            refused += 1;
        }
        // The first object, the manifest, the packs.
        assert_eq!(refused, 3);
    }
    assert_pulled(&good, &to.pool);
}

#[test]
fn a_piece_that_is_damaged_in_the_store_is_found_and_is_named_with_its_snapshot() {
    let (from, to) = (source(), pool_of(32 << 20));
    let (memory, store) = in_memory(None);
    push(&store, &from.pool, "a").unwrap();
    let packs = all_objects(&memory).into_iter();
    let (path, bytes) = packs
        .into_iter()
        .find(|(path, _)| path.starts_with("packs/"))
        .unwrap();
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        overwrite(&memory, &path, damaged);
        let report = store.verify(&mut go_on).unwrap();
        assert_eq!(report.faults.len(), 1, "byte {at}");
        assert_eq!(report.faults[0].snapshots, ["a"]);
    }
    overwrite(&memory, &path, bytes.to_vec());
    assert_pulled(&store, &to.pool);
}

#[test]
fn a_store_without_conditional_writes_is_refused() {
    let from = source();
    for fate in [Fate::Unknown, Fate::Unconditional] {
        let (memory, _) = in_memory(None);
        let store = hooked(&memory, move |request, _| match request {
            Request::PutIfAbsent => fate,
            _ => Fate::Done,
        });
        let store = store.unwrap();
        let pushed = push(&store, &from.pool, "a");
        assert!(
            matches!(pushed, Err(Error::NoConditionalWrites)),
            "{pushed:?}"
        );
        // The first object is as it was.
        assert!(store.snapshots().unwrap().0.is_empty());
        hooked(&memory, |_, _| Fate::Done).unwrap();
    }
}

#[test]
fn a_push_that_dies_at_any_request_leaves_nothing_half_done() {
    let (from, to) = (source(), pool_of(32 << 20));
    for last in 0.. {
        let (memory, good) = in_memory(None);
        let count = AtomicUsize::new(0);
        let store = hooked(&memory, move |_, _| {
            match count.fetch_add(1, Ordering::Relaxed) {
                number if number <= last => Fate::Done,
                _ => Fate::Lost,
            }
        });
        let survived = store
            .and_then(|store| push(&store, &from.pool, "a"))
            .is_ok();
        let seen = good.snapshots().unwrap();
        assert!(seen.1.is_empty(), "request {last}: {:?}", seen.1);
        assert!(
            good.verify(&mut go_on).unwrap().faults.is_empty(),
            "request {last}"
        );
        // The next push goes on, and what the dead one has left ends by hand.
        let again = push(&good, &from.pool, "a").unwrap();
        assert_eq!(again.was_there, !seen.0.is_empty());
        for dead in good.pushes().unwrap() {
            let end_push = Some(dead.id);
            good.gc(&GcOptions { end_push }).unwrap();
        }
        for _ in 0..3 {
            good.gc(&GcOptions::default()).unwrap();
        }
        assert_pulled(&good, &to.pool);
        if survived {
            break;
        }
    }
}

#[test]
fn a_push_that_somebody_ends_while_it_commits_makes_nothing() {
    let from = source();
    for at in [Request::Put, Request::PutIfAbsent] {
        let (memory, good) = in_memory(None);
        let others = good.clone();
        let store = hooked(&memory, move |request, path| {
            // Before the first pack is put, or just before the manifest is.
            let wanted = if at == Request::Put {
                "packs/"
            } else {
                "snapshots/"
            };
            if request == at && path.starts_with(wanted) {
                std::thread::scope(|scope| {
                    let ends = || {
                        for push in others.pushes().unwrap() {
                            let end_push = Some(push.id);
                            others.gc(&GcOptions { end_push }).unwrap();
                        }
                    };
                    scope.spawn(ends);
                });
            }
            Fate::Done
        });
        let pushed = push(&store.unwrap(), &from.pool, "a");
        assert!(matches!(pushed, Err(Error::PushEnded { .. })), "{pushed:?}");
        assert!(good.snapshots().unwrap().0.is_empty());
    }
}

/// A power cut may undo deletions in a directory, which are not flushed. Writes are.
#[test]
fn deletions_that_a_power_cut_undoes_harm_no_other_snapshot() {
    let (from, to) = (source(), pool_of(32 << 20));
    take(&from.pool, "b", &Memory::from([(3, 1), (900, 90)]));
    let (memory, store) = in_memory(None);
    push(&store, &from.pool, "b").unwrap();
    push(&store, &from.pool, "a").unwrap();
    let mut undone = all_objects(&memory);
    store.remove("a").unwrap();
    store.gc(&GcOptions::default()).unwrap();
    undone.extend(all_objects(&memory));
    let deleted = store.gc(&GcOptions::default()).unwrap().deleted_count;
    assert_eq!(deleted, 1);
    // The manifest and the list of condemned packs are back, and the pack is not.
    undone.retain(|(path, _)| path.starts_with("snapshots/") || path.starts_with("condemned/"));
    for (path, bytes) in undone {
        overwrite(&memory, &path, bytes.to_vec());
    }
    let pulled = pull(&store, &to.pool, "a");
    assert!(matches!(pulled, Err(Error::Missing { .. })), "{pulled:?}");
    pull(&store, &to.pool, "b").unwrap();
    assert_eq!(contents(&to.pool, "b").get(&900), Some(&90));
    let faults = store.verify(&mut go_on).unwrap().faults;
    assert!(
        faults.iter().all(|fault| fault.snapshots == ["a"]),
        "{faults:?}"
    );
    assert!(!faults.is_empty());
    store.remove("a").unwrap();
    for _ in 0..3 {
        store.gc(&GcOptions::default()).unwrap();
    }
    assert_eq!(store.verify(&mut go_on).unwrap().faults, []);
    push(&store, &from.pool, "a").unwrap();
    assert_pulled(&store, &pool_of(32 << 20).pool);
}

//! Pushes, collections and removals at the same time, one request after the other in any order.
//!
//! Each actor is a thread with a store of its own. Before each request it waits for its turn, which
//! a seed decides. Nothing is deleted that a push has counted on, whatever the order.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};

use nvvmm_test_profile::sized;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::moving::push;
use super::pools::*;
use super::stores::*;
use crate::{Error, GcOptions, PushOptions, Pusher, Store, Use};

/// Turns of actors.
#[derive(Default)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Actors that have not ended.
    live: BTreeSet<usize>,
    /// Those of them that want to make a request.
    waiting: BTreeSet<usize>,
    turn: Option<usize>,
}

impl Turns {
    fn step(&self, actor: usize) {
        let mut state = self.state.lock().unwrap();
        if !state.live.contains(&actor) {
            return;
        }
        state.waiting.insert(actor);
        self.changed.notify_all();
        while state.turn != Some(actor) {
            state = self.changed.wait(state).unwrap();
        }
        state.turn = None;
        state.waiting.remove(&actor);
    }

    fn leave(&self, actor: usize) {
        self.state.lock().unwrap().live.remove(&actor);
        self.changed.notify_all();
    }

    /// Gives turns until all actors have ended.
    fn conduct(&self, seed: u64) {
        let random = AtomicU64::new(seed);
        let mut state = self.state.lock().unwrap();
        while !state.live.is_empty() {
            if state.turn.is_some() || state.waiting.len() < state.live.len() {
                state = self.changed.wait(state).unwrap();
                continue;
            }
            let chosen = (super::faults::random(&random) % state.waiting.len() as u64) as usize;
            state.turn = state.waiting.iter().nth(chosen).copied();
            self.changed.notify_all();
        }
    }
}

/// The part of an actor.
#[derive(Clone, Copy)]
enum Part<'p> {
    Pushes(&'p Bench, &'static str),
    /// Pushes two snapshots in a series, and removes the first one.
    Replicates(&'p Bench, [&'static str; 2]),
    Collects(u32),
    Removes(&'static str),
    /// Ends the pushes that it sees.
    Ends,
}

/// Has actors act in the order that the seed decides. The names of the snapshots whose push has
/// reported that they are in the store.
fn act(memory: &Arc<InMemory>, parts: &[Part<'_>], seed: u64) -> Vec<&'static str> {
    let turns = Arc::new(Turns::default());
    let stores: Vec<Store> = (0..parts.len())
        .map(|actor| {
            let turns = Arc::clone(&turns);
            let hooked = Hooked::new(memory, move |_, _| {
                turns.step(actor);
                Fate::Done
            });
            let store = Store::on(hooked, Path::default(), "turns", None, Use::Existing);
            let mut store = store.unwrap();
            store.objects = store.objects.with_parallel(1);
            store
        })
        .collect();
    turns.state.lock().unwrap().live = (0..parts.len()).collect();
    std::thread::scope(|scope| {
        let acting: Vec<_> = parts
            .iter()
            .zip(&stores)
            .enumerate()
            .map(|(actor, (part, store))| {
                let turns = &turns;
                scope.spawn(move || {
                    let done = perform(*part, store);
                    turns.leave(actor);
                    done
                })
            })
            .collect();
        turns.conduct(seed);
        let done = acting.into_iter().map(|actor| actor.join().unwrap());
        done.flatten().collect()
    })
}

fn perform(part: Part<'_>, store: &Store) -> Option<&'static str> {
    match part {
        Part::Pushes(from, name) => match push(store, &from.pool, name) {
            Ok(_) => return Some(name),
            Err(Error::PushEnded { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        },
        Part::Replicates(from, [first, second]) => {
            let mut pusher = Pusher::of_series(store.clone(), "web");
            for name in [first, second] {
                let pushed = pusher.push(&from.pool, name, &PushOptions::default(), &mut go_on);
                pushed.unwrap();
            }
            store.remove(first).unwrap();
            return Some(second);
        }
        Part::Collects(times) => {
            for _ in 0..times {
                store.gc(&GcOptions::default()).unwrap();
            }
        }
        Part::Removes(name) => drop(store.remove(name)),
        Part::Ends => {
            for push in store.pushes().unwrap() {
                let end_push = Some(push.id);
                match store.gc(&GcOptions { end_push }) {
                    Ok(_) | Err(Error::NoSuchPush { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    None
}

/// All that pushes have reported is there and whole, and nothing else is left in the end.
fn assert_whole(memory: &Arc<InMemory>, pushed: &[&str], seed: u64) {
    let store = Store::on(
        memory.clone(),
        Path::default(),
        "after",
        None,
        Use::Existing,
    );
    let store = store.unwrap();
    let report = store.verify(&mut go_on).unwrap();
    assert_eq!(report.faults, [], "seed {seed}");
    let (there, _) = store.snapshots().unwrap();
    for name in pushed {
        let is_there = there.iter().any(|snapshot| snapshot.header.name == *name);
        assert!(is_there, "seed {seed}: {name}");
    }
    for _ in 0..3 {
        store.gc(&GcOptions::default()).unwrap();
    }
    let left = store.gc(&GcOptions::default()).unwrap();
    assert!(left.pushes.is_empty(), "seed {seed}: {left:?}");
    assert_eq!(
        left.packs_count, report.packs_count,
        "seed {seed}: {left:?}"
    );
    assert_eq!(store.verify(&mut go_on).unwrap().faults, [], "seed {seed}");
}

/// Snapshots that share a piece with `base`, and have one of their own.
fn sources() -> [Bench; 3] {
    [("base", 1), ("one", 2), ("two", 3)].map(|(name, own)| {
        let bench = pool_of(8 << 20);
        let memory = Memory::from([(0, 77), (300, own), (600, 78)]);
        take(&bench.pool, name, &memory);
        bench
    })
}

fn seeds() -> std::ops::Range<u64> {
    0..sized(150, 3000)
}

#[test]
fn nothing_is_deleted_that_a_push_counts_on_in_whatever_order_requests_come() {
    let [base, one, two] = sources();
    for seed in seeds() {
        let (memory, store) = in_memory(None);
        push(&store, &base.pool, "base").unwrap();
        let parts = [
            Part::Pushes(&one, "one"),
            Part::Collects(3),
            Part::Removes("base"),
            Part::Collects(2),
            Part::Pushes(&two, "two"),
        ];
        let pushed = act(&memory, &parts, seed);
        assert_eq!(pushed, ["one", "two"], "seed {seed}");
        assert_whole(&memory, &pushed, seed);
    }
}

#[test]
fn what_was_condemned_before_is_not_counted_on_by_pushes_that_begin_later() {
    let [base, one, two] = sources();
    for seed in seeds() {
        let (memory, store) = in_memory(None);
        push(&store, &base.pool, "base").unwrap();
        store.remove("base").unwrap();
        store.gc(&GcOptions::default()).unwrap();
        let parts = [
            Part::Pushes(&one, "one"),
            Part::Collects(2),
            Part::Pushes(&two, "two"),
            Part::Collects(1),
        ];
        let pushed = act(&memory, &parts, seed);
        assert_eq!(pushed, ["one", "two"], "seed {seed}");
        assert_whole(&memory, &pushed, seed);
    }
}

#[test]
fn a_push_that_was_ended_by_hand_makes_nothing_or_is_whole() {
    let [base, one, two] = sources();
    for seed in seeds() {
        let (memory, store) = in_memory(None);
        push(&store, &base.pool, "base").unwrap();
        store.remove("base").unwrap();
        let parts = [
            Part::Pushes(&one, "one"),
            Part::Collects(2),
            Part::Ends,
            Part::Pushes(&two, "two"),
            Part::Collects(1),
        ];
        let pushed = act(&memory, &parts, seed);
        assert_whole(&memory, &pushed, seed);
    }
}

#[test]
fn a_series_counts_on_nothing_that_was_condemned_since_its_last_push() {
    let [base, one, _] = sources();
    let replicated = pool_of(8 << 20);
    for (name, own) in [("first", 5), ("second", 6)] {
        let memory = Memory::from([(0, 77), (300, own), (600, 78)]);
        take(&replicated.pool, name, &memory);
    }
    for seed in seeds() {
        let (memory, store) = in_memory(None);
        push(&store, &base.pool, "base").unwrap();
        let parts = [
            Part::Replicates(&replicated, ["first", "second"]),
            Part::Collects(3),
            Part::Removes("base"),
            Part::Collects(2),
            Part::Pushes(&one, "one"),
        ];
        let pushed = act(&memory, &parts, seed);
        assert_eq!(pushed, ["second", "one"], "seed {seed}");
        assert_whole(&memory, &pushed, seed);
    }
}

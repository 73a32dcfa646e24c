//! Snapshots that arrive in any order, over stores that fail.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use nvvmm_snapshot::{ChunkIndex, Pool};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::pools::take_with_disk;
use super::pools::{CHUNKS, Memory, assert_clean, contents, go_on, pool_of, sparse, take};
use super::stores::{Fate, Hooked, Request, all_objects, in_memory, overwrite};
use crate::{ArrivalNews, Begun, Error, Prefetch, PullOptions, PushOptions, Store, Use};

/// A store in memory with the snapshot `one`.
fn pushed() -> (Arc<InMemory>, Memory) {
    let (memory, store) = in_memory(None);
    let source = pool_of(64 << 20);
    take(&source.pool, "one", &sparse());
    store
        .push(&source.pool, "one", &PushOptions::default(), &mut go_on)
        .unwrap();
    (memory, sparse())
}

fn over(
    memory: &Arc<InMemory>,
    hook: impl Fn(Request, &str) -> Fate + Send + Sync + 'static,
) -> Store {
    let hooked = Hooked::new(memory, hook);
    Store::on(hooked, Path::default(), "memory", None, Use::Arriving).unwrap()
}

/// Chunks that a guest touches at first, and what it hears.
struct Guest {
    touches: Vec<u32>,
    news: Vec<ArrivalNews>,
}

impl Guest {
    fn touching(touches: &[u32]) -> Guest {
        Guest {
            touches: touches.to_vec(),
            news: Vec::new(),
        }
    }

    /// Has the snapshot arrive. The guest wants all of it in the end.
    fn run(
        &mut self,
        store: &Store,
        pool: &Arc<Pool>,
        prefetch: Prefetch,
    ) -> crate::Result<crate::PullReport> {
        let begun = store.begin_arrival(pool, "one", &PullOptions::default(), prefetch)?;
        let Begun::Arriving(arrival) = begun else {
            panic!("it does not arrive");
        };
        let wants = arrival.wants();
        let touches = self.touches.iter().map(|chunk| ChunkIndex::new(*chunk));
        wants.touched(touches.collect());
        arrival.run(&mut |news| {
            if let ArrivalNews::Landed { chunks, .. } = &news
                && self.touches.iter().all(|touch| {
                    let is_in = |(first, end): &(u32, u32)| (first..end).contains(&touch);
                    chunks.iter().any(is_in) || self.has_landed(*touch)
                })
            {
                wants.all();
            }
            if news == ArrivalNews::Whole {
                // It records no more touches.
                wants.lost();
            }
            self.news.push(news);
            ControlFlow::Continue(())
        })
    }

    fn has_landed(&self, chunk: u32) -> bool {
        self.landed()
            .any(|(first, end)| (first..end).contains(&chunk))
    }

    fn landed(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.news.iter().flat_map(|news| match news {
            ArrivalNews::Landed { chunks, .. } => chunks.clone(),
            _ => Vec::new(),
        })
    }
}

#[test]
fn what_is_touched_lands_first_and_the_order_is_kept() {
    let (memory, content) = pushed();
    let store = over(&memory, |_, _| Fate::Done);
    let target = pool_of(64 << 20);
    let mut guest = Guest::touching(&[2, 0]);
    guest.run(&store, &target.pool, Prefetch::None).unwrap();
    assert_eq!(contents(&target.pool, "one"), content);
    let all: Vec<(u32, u32)> = guest.landed().collect();
    let chunks = all.iter().flat_map(|(first, end)| *first..*end);
    let chunks: BTreeSet<u32> = chunks.collect();
    assert_eq!(chunks, (0..CHUNKS as u32).collect());
    assert_eq!(guest.news.last(), Some(&ArrivalNews::Whole));
    assert_clean(&target.pool);
    // The next host has the record, and fetches what it names.
    let other = pool_of(64 << 20);
    let begun = store
        .begin_arrival(
            &other.pool,
            "one",
            &PullOptions::default(),
            Prefetch::Recorded,
        )
        .unwrap();
    let Begun::Arriving(arrival) = begun else {
        panic!("it does not arrive");
    };
    let mut landed = BTreeSet::new();
    let ended = arrival.run(&mut |news| {
        if let ArrivalNews::Landed { chunks, .. } = news {
            landed.extend(chunks.iter().flat_map(|(first, end)| *first..*end));
        }
        match landed.contains(&0) && landed.contains(&2) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(
        ended,
        Err(Error::Pool(nvvmm_snapshot::Error::Interrupted))
    ));
    assert!(!landed.contains(&1), "{landed:?}");
    store.remove("one").unwrap();
    let left = all_objects(&memory);
    assert!(
        !left.iter().any(|(path, _)| path.starts_with("touches/")),
        "{left:?}"
    );
}

#[test]
fn a_store_that_fails_now_and_then_changes_nothing() {
    let (memory, content) = pushed();
    let fates = [Fate::Lost, Fate::Truncated, Fate::Flipped];
    let left = Arc::new(Mutex::new(vec![0; 3]));
    let count = Arc::clone(&left);
    let store = over(&memory, move |_, path| {
        let mut count = count.lock().unwrap();
        let next = (0..3).find(|fate| count[*fate] < 2 && path.starts_with("packs/"));
        next.map_or(Fate::Done, |fate| {
            count[fate] += 1;
            fates[fate]
        })
    });
    let target = pool_of(64 << 20);
    let mut guest = Guest::touching(&[1]);
    guest.run(&store, &target.pool, Prefetch::All).unwrap();
    assert_eq!(contents(&target.pool, "one"), content);
    assert_eq!(*left.lock().unwrap(), [2, 2, 2]);
    assert_clean(&target.pool);
}

#[test]
fn a_store_that_is_away_is_told_and_asked_again() {
    let (memory, content) = pushed();
    let began = std::time::Instant::now();
    let store = over(&memory, move |_, path| {
        match path.starts_with("packs/") && began.elapsed().as_millis() < 2500 {
            true => Fate::Lost,
            false => Fate::Done,
        }
    });
    let target = pool_of(64 << 20);
    let mut guest = Guest::touching(&[0]);
    guest.run(&store, &target.pool, Prefetch::None).unwrap();
    let is_away = |news: &&ArrivalNews| matches!(news, ArrivalNews::Away { .. });
    assert_eq!(
        guest.news.iter().filter(is_away).count(),
        1,
        "{:?}",
        guest.news
    );
    assert!(guest.news.contains(&ArrivalNews::Back));
    assert_eq!(contents(&target.pool, "one"), content);
}

#[test]
fn an_interrupted_arrival_goes_on_and_so_does_a_pull() {
    let (memory, content) = pushed();
    let store = over(&memory, |_, _| Fate::Done);
    let target = pool_of(64 << 20);
    let begin = || {
        let begun =
            store.begin_arrival(&target.pool, "one", &PullOptions::default(), Prefetch::None);
        match begun.unwrap() {
            Begun::Arriving(arrival) => arrival,
            _ => panic!("it does not arrive"),
        }
    };
    let arrival = begin();
    arrival.wants().touched(vec![ChunkIndex::new(0)]);
    // It hears of the holes, and then of the chunk.
    let mut count = 0;
    let ended = arrival.run(&mut |_| {
        count += 1;
        match count {
            1 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    });
    assert!(ended.is_err());
    let arrival = begin();
    let wants = arrival.wants();
    wants.all();
    let report = arrival.run(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.received.resumed);
    assert_eq!(contents(&target.pool, "one"), content);
    let there = store.begin_arrival(&target.pool, "one", &PullOptions::default(), Prefetch::All);
    assert!(matches!(there.unwrap(), Begun::There(name) if name == "one"));
    assert_clean(&target.pool);
}

#[test]
fn a_parent_in_the_pool_is_not_fetched_and_what_it_has_more_is_no_part() {
    let (memory, store) = in_memory(None);
    let source = pool_of(64 << 20);
    let mut small = sparse();
    small.retain(|frame, _| *frame < 1024);
    take(&source.pool, "one", &small);
    store
        .push(&source.pool, "one", &PushOptions::default(), &mut go_on)
        .unwrap();
    let store = over(&memory, |_, _| Fate::Done);
    let target = pool_of(64 << 20);
    take(&target.pool, "alike", &sparse());
    let options = PullOptions {
        like: Some("alike"),
        ..PullOptions::default()
    };
    let begun = store.begin_arrival(&target.pool, "one", &options, Prefetch::All);
    let Begun::Arriving(arrival) = begun.unwrap() else {
        panic!("it does not arrive");
    };
    let report = arrival.run(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.fetched_pieces_count, 0);
    assert_eq!(contents(&target.pool, "one"), small);
    assert_clean(&target.pool);
}

#[test]
fn a_record_of_no_use_is_like_none() {
    let (memory, content) = pushed();
    let store = over(&memory, |_, _| Fate::Done);
    let path = format!("touches/{}", store.keys.snapshot_object("one"));
    overwrite(&memory, &path, b"nonsense".to_vec());
    let target = pool_of(64 << 20);
    let mut guest = Guest::touching(&[1]);
    guest.run(&store, &target.pool, Prefetch::Recorded).unwrap();
    assert_eq!(contents(&target.pool, "one"), content);
}

#[test]
fn a_snapshot_with_disks_is_not_lazy() {
    let (memory, store) = in_memory(None);
    let source = pool_of(64 << 20);
    take_with_disk(&source.pool, "one", &sparse(), b"end");
    store
        .push(&source.pool, "one", &PushOptions::default(), &mut go_on)
        .unwrap();
    let store = over(&memory, |_, _| Fate::Done);
    let target = pool_of(64 << 20);
    let begun = store.begin_arrival(&target.pool, "one", &PullOptions::default(), Prefetch::All);
    assert!(matches!(begun.unwrap(), Begun::WholeOnly(_)));
}

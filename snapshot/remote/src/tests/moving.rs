//! Snapshots pushed and pulled, without faults.

use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::stream::sealed::Key;
use nvvmm_snapshot::{Error as PoolError, Pool};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::pools::*;
use super::stores::*;
use crate::{
    Error, GcOptions, PullOptions, PullReport, PushOptions, PushReport, Store, StoreUrl, Use,
};

pub(super) fn push(store: &Store, pool: &Arc<Pool>, name: &str) -> Result<PushReport, Error> {
    store.push(pool, name, &PushOptions::default(), &mut go_on)
}

pub(super) fn pull(store: &Store, pool: &Arc<Pool>, name: &str) -> Result<PullReport, Error> {
    store.pull(pool, name, &PullOptions::default(), &mut go_on)
}

pub(super) fn key(digit: &str) -> Key {
    Key::from_text(&digit.repeat(64)).unwrap()
}

/// A directory and a store in memory, with and without a key, give back what they were given.
#[test]
fn a_snapshot_is_pulled_as_it_was_pushed() {
    let directory = tempfile::tempdir().unwrap();
    for key in [None, Some(key("5"))] {
        let name = if key.is_some() { "sealed" } else { "plain" };
        let url = format!("file://{}", directory.path().join(name).display());
        let url = StoreUrl::parse(&url).unwrap();
        let stores = [
            Store::open(&url, key.as_ref(), Use::Made).unwrap(),
            in_memory(key.as_ref()).1,
        ];
        for store in stores {
            let (from, to) = (pool_of(32 << 20), pool_of(32 << 20));
            let end: Vec<u8> = (0..9000).map(|at| (at / 7) as u8).collect();
            take_with_disk(&from.pool, "a", &sparse(), &end);
            let pushed = push(&store, &from.pool, "a").unwrap();
            // Two pieces of memory are the same; the end of the disk is in two.
            assert_eq!((pushed.pieces_count, pushed.new_pieces_count), (7, 6));
            assert_eq!((pushed.packs_count, pushed.was_there), (1, false));
            let pulled = pull(&store, &to.pool, "a").unwrap();
            assert_eq!((pulled.pieces_count, pulled.fetched_pieces_count), (7, 6));
            assert_eq!(contents(&to.pool, "a"), sparse());
            assert_eq!(end_of_disk(&to.pool, "a", end.len()), end);
            let (original, copy) = (from.pool.find("a").unwrap(), to.pool.find("a").unwrap());
            assert_eq!(original.identity, copy.identity);
            assert_eq!(pulled.received.content_root, Some(pushed.content_root));
            assert_eq!(to.pool.read_state(copy.id).unwrap(), STATE);
            assert!(copy.foreign && !copy.incomplete);
            assert_clean(&to.pool);
            assert_eq!(store.snapshots().unwrap().0.len(), 1);
            assert!(store.verify(&mut go_on).unwrap().faults.is_empty());
            assert!(store.pushes().unwrap().is_empty());
        }
    }
}

#[test]
fn a_second_push_sends_what_has_changed_and_a_pull_fetches_what_is_lacking() {
    let (_, store) = in_memory(None);
    let (from, to) = (pool_of(32 << 20), pool_of(32 << 20));
    // A frame of zeros that is there counts as a hole, also where it is looked for.
    let mut with_zeros = sparse();
    with_zeros.insert(4, 0);
    take(&from.pool, "a", &with_zeros);
    let mut changed = sparse();
    changed.insert(700, 70);
    take(&from.pool, "b", &changed);
    push(&store, &from.pool, "a").unwrap();
    assert!(push(&store, &from.pool, "a").unwrap().was_there);
    let pushed = push(&store, &from.pool, "b").unwrap();
    assert_eq!((pushed.pieces_count, pushed.new_pieces_count), (5, 1));
    let again = PullOptions {
        name: Some("again"),
        ..PullOptions::default()
    };
    let found = store.pull(&from.pool, "a", &again, &mut go_on).unwrap();
    assert_eq!(
        (found.fetched_pieces_count, found.received.frames_stored),
        (0, 0)
    );
    pull(&store, &to.pool, "a").unwrap();
    let options = PullOptions {
        like: Some("a"),
        ..PullOptions::default()
    };
    let pulled = store.pull(&to.pool, "b", &options, &mut go_on).unwrap();
    assert_eq!((pulled.pieces_count, pulled.fetched_pieces_count), (5, 1));
    // Of the piece that was fetched, the frame that has changed.
    assert_eq!(pulled.received.frames_stored, 1);
    assert_eq!(contents(&to.pool, "b"), changed);
    assert_clean(&to.pool);
}

#[test]
fn a_pull_that_is_interrupted_goes_on() {
    let (_, store) = in_memory(None);
    let (from, to) = (pool_of(32 << 20), pool_of(32 << 20));
    take(&from.pool, "a", &sparse());
    push(&store, &from.pool, "a").unwrap();
    let mut calls = 0;
    let mut once = |_| {
        calls += 1;
        match calls {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let cut = store.pull(&to.pool, "a", &PullOptions::default(), &mut once);
    assert!(
        matches!(cut, Err(Error::Pool(PoolError::Interrupted))),
        "{cut:?}"
    );
    let pulled = pull(&store, &to.pool, "a").unwrap();
    assert!(pulled.received.resumed);
    assert!(pulled.fetched_pieces_count < pulled.pieces_count - 1);
    assert_eq!(contents(&to.pool, "a"), sparse());
    assert_clean(&to.pool);
}

#[test]
fn a_push_that_is_interrupted_leaves_nothing_that_is_seen_and_the_next_one_goes_on() {
    let (_, mut store) = in_memory(None);
    // Each piece is a pack, and each is there before the next one but one is sent.
    store.pack_bytes = 1;
    store.objects = store.objects.with_parallel(1);
    let from = pool_of(32 << 20);
    take(&from.pool, "a", &sparse());
    let mut calls = 0;
    let mut once = |_| {
        calls += 1;
        match calls {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let cut = store.push(&from.pool, "a", &PushOptions::default(), &mut once);
    assert!(
        matches!(cut, Err(Error::Pool(PoolError::Interrupted))),
        "{cut:?}"
    );
    assert!(store.snapshots().unwrap().0.is_empty());
    assert!(store.pushes().unwrap().is_empty());
    let pushed = push(&store, &from.pool, "a").unwrap();
    assert!(
        pushed.new_pieces_count < pushed.pieces_count - 1,
        "{pushed:?}"
    );
}

#[test]
fn a_name_that_is_taken_and_a_name_that_is_not_there_are_refused() {
    let (_, store) = in_memory(None);
    let (from, other) = (pool_of(32 << 20), pool_of(32 << 20));
    take(&from.pool, "a", &sparse());
    take(&other.pool, "a", &[(1, 1)].into());
    push(&store, &from.pool, "a").unwrap();
    let taken = push(&store, &other.pool, "a");
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    let missing = pull(&store, &other.pool, "b");
    let Err(Error::NotFound { near, .. }) = missing else {
        panic!("{missing:?}");
    };
    assert_eq!(near, ["a"]);
    assert!(matches!(store.remove("b"), Err(Error::NotFound { .. })));
    store.remove("a").unwrap();
    assert!(store.snapshots().unwrap().0.is_empty());
    push(&store, &other.pool, "a").unwrap();
}

#[test]
fn a_key_opens_its_own_store_only() {
    let (memory, _) = in_memory(Some(&key("5")));
    let open = |key: Option<&Key>| {
        Store::on(
            memory.clone(),
            Path::default(),
            "memory",
            key,
            Use::Existing,
        )
    };
    assert!(matches!(open(None), Err(Error::NeedsKey)));
    assert!(matches!(open(Some(&key("6"))), Err(Error::WrongKey)));
    assert!(open(Some(&key("5"))).is_ok());
    let (plain, _) = in_memory(None);
    let opened = Store::on(
        plain,
        Path::default(),
        "memory",
        Some(&key("5")),
        Use::Existing,
    );
    assert!(matches!(opened, Err(Error::NotEncrypted)));
    let none = Arc::new(InMemory::new());
    let opened = Store::on(none, Path::default(), "memory", None, Use::Existing);
    assert!(matches!(opened, Err(Error::NoStore { .. })));
}

#[test]
fn an_encrypted_store_shows_neither_content_nor_names() {
    let (memory, store) = in_memory(Some(&key("5")));
    let from = pool_of(32 << 20);
    take(&from.pool, "a-secret-name", &[(1, 0xA5)].into());
    push(&store, &from.pool, "a-secret-name").unwrap();
    for (path, bytes) in all_objects(&memory) {
        assert!(!path.contains("secret"), "{path}");
        for secret in [&b"secret"[..], STATE, &[0xA5; 16]] {
            let shows = bytes.windows(secret.len()).any(|part| part == secret);
            assert!(!shows, "{path}");
        }
    }
}

#[test]
fn two_collections_delete_what_a_removed_snapshot_alone_needed() {
    let (_, store) = in_memory(None);
    let (from, to) = (pool_of(32 << 20), pool_of(32 << 20));
    take(&from.pool, "a", &sparse());
    take(&from.pool, "b", &[(1, 77)].into());
    push(&store, &from.pool, "a").unwrap();
    push(&store, &from.pool, "b").unwrap();
    store.remove("a").unwrap();
    let first = store.gc(&GcOptions::default()).unwrap();
    assert_eq!(
        (
            first.packs_count,
            first.condemned_count,
            first.deleted_count
        ),
        (2, 1, 0)
    );
    let second = store.gc(&GcOptions::default()).unwrap();
    assert_eq!((second.condemned_count, second.deleted_count), (0, 1));
    let third = store.gc(&GcOptions::default()).unwrap();
    assert_eq!((third.packs_count, third.condemned_count), (1, 0));
    pull(&store, &to.pool, "b").unwrap();
}

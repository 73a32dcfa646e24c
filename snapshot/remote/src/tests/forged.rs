//! Manifests that say what is not so, with digests that are right.

use std::sync::Arc;

use nvvmm_snapshot::Error as PoolError;
use object_store::memory::InMemory;

use super::moving::{pull, push};
use super::pools::*;
use super::stores::*;
use crate::layout::manifest::Manifest;
use crate::{Error, Store};

/// A store with snapshots `a` and `b`.
struct Forge {
    memory: Arc<InMemory>,
    store: Store,
    to: Bench,
}

impl Forge {
    fn new() -> Forge {
        let (memory, store) = in_memory(None);
        let from = pool_of(32 << 20);
        take(&from.pool, "a", &sparse());
        take(&from.pool, "b", &[(1, 1)].into());
        push(&store, &from.pool, "a").unwrap();
        push(&store, &from.pool, "b").unwrap();
        let to = pool_of(32 << 20);
        Forge { memory, store, to }
    }

    fn manifest(&self, name: &str) -> Manifest {
        let object = self.store.keys.snapshot_object(name);
        self.store.manifest_in(&object).unwrap().unwrap()
    }

    /// Pulls `a` after its manifest was replaced. Nothing may be left.
    fn refused(&self, forged: &Manifest) -> Error {
        let object = self.store.keys.snapshot_object("a");
        let bytes = forged.encode(&self.store.keys, &object).unwrap();
        overwrite(&self.memory, &Store::snapshot_path(&object), bytes);
        let refused = pull(&self.store, &self.to.pool, "a").unwrap_err();
        assert!(self.to.pool.entries().unwrap().is_empty(), "{refused}");
        assert_clean(&self.to.pool);
        refused
    }
}

#[test]
fn content_that_is_not_what_the_root_names_is_refused() {
    let forge = Forge::new();
    let good = forge.manifest("a");
    let last = good.pieces.len() - 1;
    let mut exchanged = good.clone();
    let (first, other) = (good.pieces[0], good.pieces[last]);
    (exchanged.pieces[0].map, exchanged.pieces[0].index) = (first.map, first.index);
    (exchanged.pieces[0].name, exchanged.pieces[0].offset) = (other.name, other.offset);
    exchanged.pieces[0].bytes = other.bytes;
    let mut left_out = good.clone();
    left_out.pieces.remove(last);
    left_out.head.pieces -= 1;
    let mut other_state = good.clone();
    other_state.state[0] ^= 1;
    let mut other_size = good.clone();
    other_size.head.header.memory_bytes *= 2;
    let mut other_root = good.clone();
    other_root.head.header.root = forge.manifest("b").head.header.root;
    for forged in [exchanged, left_out, other_state, other_size, other_root] {
        let refused = forge.refused(&forged);
        let is_root = matches!(refused, Error::Pool(PoolError::StreamDamaged { .. }));
        assert!(is_root, "{refused:?}");
    }
    // It arrives once its manifest is what it was.
    let object = forge.store.keys.snapshot_object("a");
    let bytes = good.encode(&forge.store.keys, &object).unwrap();
    overwrite(&forge.memory, &Store::snapshot_path(&object), bytes);
    pull(&forge.store, &forge.to.pool, "a").unwrap();
}

#[test]
fn more_frames_than_the_header_declares_are_refused() {
    let forge = Forge::new();
    let mut forged = forge.manifest("a");
    forged.head.header.frames_written = Some(100);
    let refused = forge.refused(&forged);
    assert!(
        refused.to_string().contains("more than the 100 frames"),
        "{refused}"
    );
}

#[test]
fn rows_that_make_no_sense_are_refused_before_anything_is_fetched() {
    let forge = Forge::new();
    let good = forge.manifest("a");
    type Change = fn(&mut Manifest);
    let changes: [Change; 9] = [
        |it| it.pieces[1].map = 1,
        |it| it.pieces[1].index = 16,
        |it| it.pieces[1].index = 0,
        |it| it.pieces[1].pack = 1,
        |it| it.pieces[1].offset = u32::MAX,
        |it| it.pieces[1].bytes = 0,
        |it| it.pieces[1].bytes = 1 << 20,
        |it| it.head.pieces += 1,
        |it| it.head.header.state_bytes -= 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut forged = good.clone();
        change(&mut forged);
        let refused = forge.refused(&forged);
        assert!(
            matches!(refused, Error::Damaged { .. }),
            "{number}: {refused:?}"
        );
    }
}

#[test]
fn a_snapshot_is_not_passed_off_as_another_one() {
    let forge = Forge::new();
    let object = forge.store.keys.snapshot_object("a");
    let other = Store::snapshot_path(&forge.store.keys.snapshot_object("b"));
    let objects = all_objects(&forge.memory);
    let (_, bytes) = objects
        .into_iter()
        .find(|(path, _)| *path == other)
        .unwrap();
    overwrite(
        &forge.memory,
        &Store::snapshot_path(&object),
        bytes.to_vec(),
    );
    let refused = pull(&forge.store, &forge.to.pool, "a");
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    let refused = forge.refused(&forge.manifest("b"));
    assert!(refused.to_string().contains("another name"), "{refused}");
    // The others are listed all the same.
    let (listed, faults) = forge.store.snapshots().unwrap();
    assert_eq!((listed.len(), faults.len()), (1, 1));
}

#[test]
fn objects_that_are_not_ours_are_left_alone() {
    let forge = Forge::new();
    let push = "00112233445566778899aabbccddeeff";
    for path in [
        "README",
        "packs/x",
        "snapshots/x",
        "pushes/x",
        "condemned/x",
    ] {
        overwrite(&forge.memory, path, b"of somebody else".to_vec());
    }
    overwrite(&forge.memory, &format!("packs/{push}/00000000"), Vec::new());
    overwrite(
        &forge.memory,
        &format!("packs/{push}/00000001"),
        b"no pack".to_vec(),
    );
    let other = pool_of(32 << 20);
    take(&other.pool, "c", &sparse());
    push_again(&forge.store, &other);
    assert!(forge.store.verify(&mut go_on).unwrap().faults.is_empty());
    assert_eq!(forge.store.snapshots().unwrap().0.len(), 3);
    pull(&forge.store, &forge.to.pool, "a").unwrap();
}

fn push_again(store: &Store, bench: &Bench) {
    let pushed = push(store, &bench.pool, "c").unwrap();
    // What `a` has is counted on.
    assert_eq!(pushed.new_pieces_count, 0);
}

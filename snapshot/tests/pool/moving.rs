//! Snapshots moved from pool to pool: whole, as differences, in pieces, and not at all.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::*;
use proptest::prelude::*;

use crate::fixture::*;
use crate::streams::*;

/// Sends snapshot `a`, whose memory is [`sparse`], to a pool that is empty.
fn assert_arrives_as_it_was(from: &Arc<Pool>, to: &Arc<Pool>) {
    let (stream, report) = sent(from, "a", None);
    assert_eq!(
        (
            report.frames_sent,
            report.frames_zero,
            report.frames_emptied
        ),
        (515, 2, 0)
    );
    let landed = received(to, &stream).unwrap();
    assert_eq!(
        (
            landed.frames_received,
            landed.resumed,
            landed.like.as_deref()
        ),
        (515, false, None)
    );
    assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
    let (original, copy) = (from.find("a").unwrap(), to.find("a").unwrap());
    assert_eq!(
        (
            copy.identity,
            copy.created_unix_ns,
            copy.frames_new,
            copy.parent
        ),
        (original.identity, original.created_unix_ns, 3, None)
    );
    assert_eq!(to.read_state(copy.id).unwrap(), STATE);
    assert!(matches!(
        received(to, &stream),
        Err(Error::NameTaken { .. })
    ));
    assert_clean(to);
}

#[test]
fn a_snapshot_arrives_as_it_was_and_a_difference_shares_the_rest() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    take(
        from,
        "b",
        SnapshotKind::Vm,
        4,
        &changed(sparse()),
        Some("a"),
    );
    assert_arrives_as_it_was(from, to);

    let (stream, report) = sent(from, "b", Some("a"));
    assert_eq!(
        (
            report.frames_sent,
            report.frames_emptied,
            report.frames_zero
        ),
        (3, 2, 1)
    );
    // The base may have another name here: it is known by what it is.
    received_as(to, "base", &sent(from, "a", None).0).unwrap();
    to.remove("a").unwrap();
    let landed = received(to, &stream).unwrap();
    assert_eq!(landed.since.as_deref(), Some("base"));
    assert_eq!(seen(&contents(to, "b")), seen(&changed(sparse())));
    assert_eq!(
        to.find("b").unwrap().parent,
        Some(to.find("base").unwrap().id)
    );
    if shares_blocks(to) {
        assert_eq!(landed.frames_stored, 3);
        let own = to.find("b").unwrap().own_bytes.unwrap();
        // Three frames, four leaves and the node above them, the inode, the state.
        assert!(own <= 10 * BLOCK_SIZE_BYTES, "{own}");
    }
    to.remove("base").unwrap();
    assert_clean(to);
    assert_eq!(seen(&contents(to, "b")), seen(&changed(sparse())));
    // And from there back, under a name that is free.
    received_as(from, "again", &sent(to, "b", None).0).unwrap();
    assert_eq!(seen(&contents(from, "again")), seen(&changed(sparse())));
    assert_clean(from);
}

#[test]
fn digests_that_a_process_remembers_are_those_of_the_content() {
    let (from, one, other) = (
        pool_of(32 << 20),
        other_pool_of(32 << 20),
        other_pool_of(32 << 20),
    );
    let from = &from.pool;
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    let later = changed(sparse());
    take(from, "b", SnapshotKind::Vm, 4, &later, Some("a"));
    for (name, since) in [("a", None), ("b", Some("a"))] {
        // The sender remembers, and this receiver has nothing to remember.
        let (stream, _) = sent(from, name, since);
        let opened = Pool::open(one.pool.path()).unwrap();
        let fresh = received(&opened, &stream).unwrap();
        // This one remembers, too.
        let remembering = received(&other.pool, &stream).unwrap();
        assert_eq!(fresh.content_root, remembering.content_root);
        assert!(fresh.content_root.is_some());
    }
    assert_eq!(seen(&contents(&one.pool, "b")), seen(&later));
    assert_eq!(seen(&contents(&other.pool, "b")), seen(&later));
}

#[test]
fn what_is_in_the_pool_already_is_not_stored_again() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    take(
        from,
        "b",
        SnapshotKind::Vm,
        4,
        &changed(sparse()),
        Some("a"),
    );
    received(to, &sent(from, "a", None).0).unwrap();
    // All of it, not only the difference, into a pool that has the one before, which the sender
    // tells.
    let mut stream = Vec::new();
    let options = SendOptions {
        lineage: true,
        ..SendOptions::default()
    };
    from.send("b", &options, &mut stream, &mut go_on).unwrap();
    let landed = received(to, &stream).unwrap();
    assert_eq!((landed.since, landed.like.as_deref()), (None, Some("a")));
    if shares_blocks(to) {
        assert_eq!((landed.frames_stored, landed.frames_found), (3, 511));
    }
    assert_eq!(seen(&contents(to, "b")), seen(&changed(sparse())));
    // The same again, under another name.
    let again = received_as(to, "c", &sent(from, "b", None).0).unwrap();
    assert_eq!((again.frames_stored, again.like.as_deref()), (0, Some("b")));
    assert_clean(to);
}

#[test]
fn wherever_a_stream_ends_the_next_reception_goes_on() {
    let from = pool_of(32 << 20);
    let from = &from.pool;
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    let (stream, _) = sent(from, "a", None);
    let flat = other_pool_of(32 << 20);
    let stored = received(&flat.pool, &stream).unwrap().frames_stored;
    let used = flat.pool.status().unwrap().snapshot_blocks;
    drop(flat);
    let to = other_pool_of(32 << 20);
    let to = &to.pool;
    let free = to.status().unwrap().free_blocks;
    let bounds = bounds(&stream);
    let mut ends: Vec<usize> = bounds
        .iter()
        .flat_map(|at| [*at, at + 20, at + 60])
        .collect();
    ends.retain(|end| *end < stream.len());
    for together in [false, true] {
        for end in &ends {
            let cut = received(to, &stream[..*end]).unwrap_err();
            assert!(matches!(cut, Error::StreamCut), "{cut}");
            assert_clean(to);
            let status = to.status().unwrap();
            assert_eq!(
                (status.orphans, status.leased_blocks),
                (0, 0),
                "{end} bytes"
            );
            if status.incomplete == 1 {
                let holder = to.hold("user").unwrap();
                assert!(matches!(holder.pin("a"), Err(Error::Incomplete { .. })));
                assert!(matches!(
                    to.diff(["a", "a"], &mut |_| ControlFlow::Continue(())),
                    Err(Error::Incomplete { .. })
                ));
            } else {
                assert_eq!((status.snapshots, status.free_blocks), (0, free));
            }
            if together {
                continue;
            }
            let landed = received(to, &stream).unwrap();
            assert_eq!(landed.resumed, status.incomplete == 1);
            if shares_blocks(to) {
                assert_eq!(
                    landed.frames_stored + landed.frames_found,
                    stored,
                    "{end} bytes"
                );
            }
            assert_eq!(
                to.status().unwrap().snapshot_blocks,
                used,
                "nothing is there twice"
            );
            assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
            to.remove("a").unwrap();
            assert_clean(to);
            assert_eq!(to.status().unwrap().free_blocks, free);
        }
    }
    let landed = received(to, &stream).unwrap();
    assert!(
        landed.resumed && landed.frames_stored <= stored,
        "{landed:?}"
    );
    assert_eq!(to.status().unwrap().snapshot_blocks, used);
    assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
    assert_clean(to);
}

#[test]
fn a_stream_that_is_refused_leaves_nothing() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    take(
        from,
        "b",
        SnapshotKind::Vm,
        4,
        &changed(sparse()),
        Some("a"),
    );
    let free = to.status().unwrap().free_blocks;
    let (stream, _) = sent(from, "a", None);
    for at in bounds(&stream)
        .iter()
        .flat_map(|at| [at - 1, at.saturating_sub(16)])
    {
        let mut changed = stream.clone();
        changed[at] ^= 0x10;
        let refused = received(to, &changed);
        assert!(refused.is_err(), "byte {at}");
        assert_eq!(
            to.status().unwrap().free_blocks,
            free,
            "byte {at}: {refused:?}"
        );
        assert!(to.snapshots().unwrap().is_empty(), "byte {at}");
        assert_clean(to);
    }
    // It takes along what an earlier reception had stored.
    let bounds = bounds(&stream);
    let almost = bounds[bounds.len() - 2];
    assert!(matches!(
        received(to, &stream[..almost]),
        Err(Error::StreamCut)
    ));
    assert_eq!(to.status().unwrap().incomplete, 1);
    let mut changed = stream.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(
        received(to, &changed),
        Err(Error::StreamDamaged { .. })
    ));
    assert_eq!(to.status().unwrap().free_blocks, free);
    let missing = received(to, &sent(from, "b", Some("a")).0)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("the changes to 'b' since 'a'"),
        "{missing}"
    );
    assert_eq!(to.status().unwrap().free_blocks, free);
    // What is under the name and is another snapshot stays.
    assert!(matches!(
        received(to, &stream[..almost]),
        Err(Error::StreamCut)
    ));
    let other = received_as(to, "a", &sent(from, "b", None).0);
    assert!(matches!(other, Err(Error::NameTaken { .. })), "{other:?}");
    assert_eq!(to.status().unwrap().incomplete, 1);
    assert_clean(to);
}

#[test]
fn who_asks_for_it_ends_a_move_at_any_record() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, 4, &sparse(), None);
    let (stream, _) = sent(from, "a", None);
    for steps in 0..4 {
        let ends_after = |steps: u32| {
            let mut left = steps;
            move |_: MoveProgress| match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            }
        };
        let mut bytes = Vec::new();
        let options = SendOptions::default();
        let ended = from.send("a", &options, &mut bytes, &mut ends_after(steps.min(2)));
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert!(bytes.len() < stream.len());
        let ended = to.receive(
            &ReceiveOptions::default(),
            &mut &stream[..],
            &mut ends_after(steps),
        );
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert_clean(from);
        assert_clean(to);
    }
    assert!(received(to, &stream).unwrap().resumed);
    assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
}

#[test]
fn pages_of_process_images_are_there_or_not_also_when_they_are_zeros() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    let kind = SnapshotKind::Process;
    take(from, "p", kind, 4, &sparse(), None);
    take(from, "q", kind, 4, &changed(sparse()), Some("p"));
    let landed = received(to, &sent(from, "p", None).0).unwrap();
    assert_eq!(landed.frames_received, 517);
    assert_eq!(contents(to, "p"), sparse());
    received(to, &sent(from, "q", Some("p")).0).unwrap();
    assert_eq!(contents(to, "q"), changed(sparse()));
    assert_eq!(to.find("q").unwrap().kind, kind);
    take(from, "vm", SnapshotKind::Vm, 4, &sparse(), None);
    let options = SendOptions {
        since: Some("p"),
        ..SendOptions::default()
    };
    let mixed = from.send("vm", &options, &mut Vec::new(), &mut go_on);
    assert!(
        matches!(mixed, Err(Error::InvalidSnapshot { .. })),
        "{mixed:?}"
    );
    assert_clean(to);
}

#[test]
fn a_block_that_is_not_what_it_was_is_not_sent() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    take(
        pool,
        "a",
        SnapshotKind::Vm,
        1,
        &Memory::from([(0, 1), (1, 2)]),
        None,
    );
    let id = pool.find("a").unwrap().id;
    pool.make_digests(id, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    sent(pool, "a", None);
    let reader = pool.hold("reader").unwrap();
    let block = reader
        .pin("a")
        .unwrap()
        .1
        .chunk(0)
        .unwrap()
        .block(1)
        .unwrap();
    if !bench.place.takes_writes() {
        return;
    }
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bench.place.path())
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[9], block.byte_offset() + 77).unwrap();
    let damaged = pool.send("a", &SendOptions::default(), &mut Vec::new(), &mut go_on);
    assert!(matches!(damaged, Err(Error::Damaged { .. })), "{damaged:?}");
}

#[test]
fn a_checkpoint_of_a_ring_arrives_outside_of_all_rings() {
    let (from, to) = (pool_of(16 << 20), other_pool_of(16 << 20));
    take(
        &from.pool,
        "web@7",
        SnapshotKind::Vm,
        1,
        &Memory::from([(0, 1)]),
        None,
    );
    let landed = received(&to.pool, &sent(&from.pool, "web@7", None).0).unwrap();
    assert_eq!(landed.name, "web-7");
}

/// Input that breaks with an error of its own.
struct Breaks<'b>(&'b [u8]);

impl Read for Breaks<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(std::io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let frame = prop_oneof![0u64..40, 500u64..530, 1020u64..1030];
    proptest::collection::btree_map(frame, 0u8..4, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(nvvmm_test_profile::cases(8, 24)))]

    /// Whatever arrived before, of whichever form of the stream, the snapshot is what was sent.
    #[test]
    fn a_snapshot_is_what_was_sent_whatever_came_before(
        a in any_memory(),
        b in any_memory(),
        attempts in proptest::collection::vec((any::<bool>(), 0.0..1.0f64), 0..3),
        has_base in any::<bool>(),
        as_difference in any::<bool>(),
    ) {
        let (from, to) = (pool_of(16 << 20), other_pool_of(16 << 20));
        let (from, to) = (&from.pool, &to.pool);
        take(from, "a", SnapshotKind::Vm, 3, &a, None);
        take(from, "b", SnapshotKind::Vm, 3, &b, Some("a"));
        if has_base {
            received(to, &sent(from, "a", None).0).unwrap();
        }
        let streams = [sent(from, "b", None).0, sent(from, "b", Some("a")).0];
        let form = |difference: bool| &streams[usize::from(difference && has_base)];
        for (difference, part) in attempts {
            let stream = form(difference);
            let part = (stream.len() as f64 * part) as usize;
            let mut input = Breaks(&stream[..part]);
            let broken = to.receive(&ReceiveOptions::default(), &mut input, &mut go_on);
            prop_assert!(broken.is_err());
            assert_clean(to);
        }
        received(to, form(as_difference)).unwrap();
        prop_assert_eq!(seen(&contents(to, "b")), seen(&b));
        if has_base {
            prop_assert_eq!(seen(&contents(to, "a")), seen(&a));
            to.remove("a").unwrap();
        }
        to.remove("b").unwrap();
        assert_clean(to);
        prop_assert_eq!(to.status().unwrap().snapshot_blocks, 0);
    }
}

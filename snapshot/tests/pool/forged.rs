//! Streams of people who know something of a snapshot of the pool, and want more of it.

use std::io::Write;
use std::sync::Arc;

use nvvmm_snapshot::stream::sealed::{Key, Opening, Sealing};
use nvvmm_snapshot::stream::{BaseOf, ChunkRecord, StreamHeader};
use nvvmm_snapshot::*;

use crate::fixture::*;
use crate::streams::*;

const CHUNKS: u64 = 4;

/// A pool that has `a`, with the memory [`sparse`].
fn victim() -> Bench {
    let bench = pool_of(32 << 20);
    take(&bench.pool, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    bench
}

/// A stream without any memory, whose header says so truly.
fn empty(identity: Identity, state: &[u8]) -> Stream {
    Stream {
        header: StreamHeader {
            root: Some(root_of(CHUNKS, state, &Memory::new())),
            frames_written: Some(0),
            identity,
            base: None,
            parent: None,
            kind: SnapshotKind::Vm,
            name: "forged".to_owned(),
            memory_bytes: CHUNKS * CHUNK,
            disks: Vec::new(),
            created_unix_ns: 1,
            frames_mapped: 0,
            frames_new: 0,
            state_bytes: state.len() as u32,
            spec: String::new(),
        },
        state: state.to_vec(),
        chunks: Vec::new(),
    }
}

fn on(root: ContentRoot) -> Option<BaseOf> {
    let name = "a".to_owned();
    let id = BaseId::Content(root);
    Some(BaseOf { id, name })
}

fn identity_of(pool: &Pool, name: &str) -> Identity {
    pool.find(name).unwrap().identity
}

/// Checks that a stream is refused, and that nothing of it is left.
fn assert_refused(pool: &Arc<Pool>, stream: &Stream) -> Error {
    let names = |pool: &Pool| -> Vec<String> {
        let entries = pool.entries().unwrap().into_iter();
        entries.map(|entry| entry.name).collect()
    };
    let before = (names(pool), pool.status().unwrap().free_blocks);
    let refusal = received(pool, &stream.written()).unwrap_err();
    let after = (names(pool), pool.status().unwrap().free_blocks);
    assert_eq!(after, before, "{refusal}");
    assert_clean(pool);
    refusal
}

#[test]
fn an_identity_gives_nothing() {
    let bench = victim();
    let pool = &bench.pool;
    let known = identity_of(pool, "a");
    let own = Identity::from_bytes([7; 16]).unwrap();

    // All of the memory "as in the base", which is known by its identity only.
    let old = empty(own, b"own").as_version_1(Some(known));
    let refusal = assert_refused(pool, &old);
    assert!(matches!(refusal, Error::BaseUnproven { .. }), "{refusal}");

    // The identity as that of the stream itself: what nothing is said of is a hole.
    for stream in [
        empty(known, b"own"),
        empty(known, b"own").as_version_1(None),
    ] {
        let landed = received(pool, &stream.written()).unwrap();
        assert_eq!(contents(pool, &landed.name), Memory::new());
        pool.remove(&landed.name).unwrap();
    }

    // And as that of the parent, with a frame of the base guessed wrong.
    let mut child = empty(own, b"own");
    child.header.parent = Some(known);
    child.header.frames_written = Some(1);
    child.header.root = Some(root_of(CHUNKS, b"own", &Memory::from([(0, 99)])));
    let mut written = FrameSet::EMPTY;
    written.insert(0u32);
    child.chunks.push(ChunkRecord {
        map: 0,
        index: ChunkIndex::new(0),
        written,
        emptied: FrameSet::EMPTY,
        content: vec![99; 4096],
    });
    received(pool, &child.written()).unwrap();
    // On hugetlbfs a chunk comes with all of its frames.
    let seen = contents(pool, "forged").into_iter();
    let seen: Memory = seen.filter(|(_, byte)| *byte != 0).collect();
    assert_eq!(seen, Memory::from([(0, 99)]));
    assert_clean(pool);
}

#[test]
fn a_root_that_was_seen_gives_nothing_without_the_content() {
    let bench = victim();
    let pool = &bench.pool;
    // The pool has sent its snapshot: its root is known here, and to those who saw a difference.
    let root = sent(pool, "a", None).1.content_root;
    assert_eq!(pool.find("a").unwrap().content_root, Some(root));
    assert_eq!(root, root_of(CHUNKS, STATE, &sparse()));
    let own = Identity::from_bytes([7; 16]).unwrap();

    let mut stream = empty(own, b"own");
    stream.header.base = on(root);
    // With an own state, the root of the result is one that only who has the memory can tell.
    for claimed in [root, root_of(CHUNKS, b"own", &Memory::new())] {
        stream.header.root = Some(claimed);
        let refusal = assert_refused(pool, &stream);
        assert!(matches!(refusal, Error::StreamDamaged { .. }), "{refusal}");
        assert!(
            refusal.to_string().contains("its content is not"),
            "{refusal}"
        );
    }
    // A root that no snapshot has is no base.
    stream.header.base = on(root_of(CHUNKS, STATE, &Memory::new()));
    let refusal = assert_refused(pool, &stream);
    assert!(matches!(refusal, Error::NoBase { .. }), "{refusal}");
}

#[test]
fn a_stream_that_is_not_what_its_root_says_is_refused_at_its_end() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    let next = changed(sparse());
    take(from, "b", SnapshotKind::Vm, CHUNKS, &next, Some("a"));
    received(to, &sent(from, "a", None).0).unwrap();
    for since in [None, Some("a")] {
        let good = Stream::read(&sent(from, "b", since).0);
        let mut streams = vec![good.clone(); 4];
        streams[0].chunks[0].content[5] ^= 1;
        streams[1].chunks.pop();
        streams[2].state[0] ^= 1;
        streams[3].header.root = ContentRoot::from_bytes([1; 32]);
        for stream in &streams {
            let refusal = assert_refused(to, stream);
            assert!(
                refusal.to_string().contains("its content is not"),
                "{refusal}"
            );
        }
        received(to, &good.written()).unwrap();
        assert_eq!(seen(&contents(to, "b")), seen(&next));
        to.remove("b").unwrap();
    }
}

fn key() -> Key {
    Key::from_text(&"5c".repeat(32)).unwrap()
}

fn sealed(stream: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sealing = Sealing::begin(&mut bytes, &key()).unwrap();
    sealing.write_all(stream).unwrap();
    sealing.finish().unwrap();
    bytes
}

fn received_sealed(pool: &Arc<Pool>, bytes: &[u8], onto: Option<&str>) -> Result<ReceiveReport> {
    let options = ReceiveOptions {
        onto,
        ..ReceiveOptions::default()
    };
    let mut opening = Opening::begin(bytes, &key()).unwrap();
    pool.receive(&options, &mut opening, &mut go_on)
}

#[test]
fn a_sealed_difference_does_not_land_on_a_forged_base() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    let next = changed(sparse());
    take(from, "b", SnapshotKind::Vm, CHUNKS, &next, Some("a"));
    let genuine = sealed(&sent(from, "b", Some("a")).0);

    // Somebody without the key has sent a base: name and identity are those of the genuine one.
    let mut forged = empty(identity_of(from, "a"), STATE);
    forged.header.name = "a".to_owned();
    received(to, &forged.written()).unwrap();
    let refusal = received_sealed(to, &genuine, None).unwrap_err();
    assert!(matches!(refusal, Error::NoBase { .. }), "{refusal}");
    let refusal = received_sealed(to, &genuine, Some("a")).unwrap_err();
    assert!(matches!(refusal, Error::WrongBase { .. }), "{refusal}");
    assert_eq!(to.entries().unwrap().len(), 1);

    received_as(to, "genuine", &sent(from, "a", None).0).unwrap();
    let landed = received_sealed(to, &genuine, None).unwrap();
    assert_eq!(landed.since.as_deref(), Some("genuine"));
    assert_eq!(seen(&contents(to, "b")), seen(&next));
    assert_clean(to);
}

#[test]
fn a_stream_of_another_content_does_not_go_on_with_what_was_kept() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    let (stream, _) = sent(from, "a", None);
    let bounds = bounds(&stream);
    let part = &stream[..bounds[bounds.len() - 2]];
    assert!(matches!(received(to, part), Err(Error::StreamCut)));
    let mut forged = empty(identity_of(from, "a"), b"own");
    forged.header.name = "a".to_owned();
    let refusal = assert_refused(to, &forged);
    assert!(matches!(refusal, Error::NameTaken { .. }), "{refusal}");
    assert!(received(to, &stream).unwrap().resumed);
    assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
}

#[test]
fn streams_of_version_1_are_received_whole_or_onto_what_the_receiver_names() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    take(from, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    let next = changed(sparse());
    take(from, "b", SnapshotKind::Vm, CHUNKS, &next, Some("a"));
    let whole = Stream::read(&sent(from, "a", None).0).as_version_1(None);
    received(to, &whole.written()).unwrap();
    let landed = to.find("a").unwrap();
    assert_eq!(seen(&contents(to, "a")), seen(&sparse()));
    assert!(landed.foreign);
    // Its root was computed of what has arrived.
    assert_eq!(
        landed.content_root,
        Some(sent(from, "a", None).1.content_root)
    );

    let base = Some(identity_of(from, "a"));
    let difference = Stream::read(&sent(from, "b", Some("a")).0).as_version_1(base);
    let refusal = assert_refused(to, &difference);
    assert!(matches!(refusal, Error::BaseUnproven { .. }), "{refusal}");
    let mut onto = ReceiveOptions {
        onto: Some("a"),
        ..ReceiveOptions::default()
    };
    take(to, "other", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    let bytes = difference.written();
    let landed = to.receive(&onto, &mut &bytes[..], &mut go_on).unwrap();
    assert_eq!(landed.since.as_deref(), Some("a"));
    assert_eq!(seen(&contents(to, "b")), seen(&next));
    to.remove("b").unwrap();
    onto.onto = Some("other");
    let refusal = to.receive(&onto, &mut &bytes[..], &mut go_on).unwrap_err();
    assert!(matches!(refusal, Error::WrongBase { .. }), "{refusal}");
    onto.onto = Some("none");
    let refusal = to.receive(&onto, &mut &bytes[..], &mut go_on).unwrap_err();
    assert!(matches!(refusal, Error::NotFound { .. }), "{refusal}");
    assert_clean(to);
}

#[test]
fn a_base_that_was_taken_here_and_never_sent_is_named() {
    let (from, to) = (pool_of(32 << 20), other_pool_of(32 << 20));
    let (from, to) = (&from.pool, &to.pool);
    for pool in [from, to] {
        take(pool, "a", SnapshotKind::Vm, CHUNKS, &sparse(), None);
    }
    let next = changed(sparse());
    take(from, "b", SnapshotKind::Vm, CHUNKS, &next, Some("a"));
    let (stream, _) = sent(from, "b", Some("a"));
    let refusal = received(to, &stream).unwrap_err();
    assert!(matches!(refusal, Error::NoBase { .. }), "{refusal}");
    let onto = ReceiveOptions {
        onto: Some("a"),
        ..ReceiveOptions::default()
    };
    to.receive(&onto, &mut &stream[..], &mut go_on).unwrap();
    assert_eq!(seen(&contents(to, "b")), seen(&next));
    assert!(
        to.find("a").unwrap().content_root.is_some(),
        "from now on it is known"
    );
}

#[test]
fn a_stream_tells_nothing_of_other_snapshots_unless_it_is_asked_to() {
    let bench = victim();
    let pool = &bench.pool;
    let next = changed(sparse());
    take(pool, "b", SnapshotKind::Vm, CHUNKS, &next, Some("a"));
    let known = identity_of(pool, "a").bytes();
    let tells = |bytes: &[u8]| bytes.windows(16).any(|window| window == known);
    for since in [None, Some("a")] {
        assert!(!tells(&sent(pool, "b", since).0));
    }
    let options = SendOptions {
        lineage: true,
        ..SendOptions::default()
    };
    let mut stream = Vec::new();
    pool.send("b", &options, &mut stream, &mut go_on).unwrap();
    assert!(tells(&stream));
}

use super::*;

fn set(frames: &[u32]) -> FrameSet {
    let mut set = FrameSet::EMPTY;
    frames.iter().for_each(|frame| {
        set.insert(*frame);
    });
    set
}

fn content(frames: &[(u32, u8)]) -> Vec<u8> {
    let mut content = vec![0; CHUNK_SIZE_BYTES as usize];
    for (frame, byte) in frames {
        content[*frame as usize * FRAME_BYTES..][..FRAME_BYTES].fill(*byte);
    }
    content
}

/// The document's definition, word by word.
fn documented_chunk(frames: &[(u32, u8)]) -> [u8; 32] {
    let mut text = vec![0u8; 64];
    for (frame, byte) in frames {
        text[*frame as usize / 8] |= 1 << (frame % 8);
        text.extend([*byte; FRAME_BYTES]);
    }
    blake3::derive_key(CHUNK_CONTEXT, &text)
}

#[test]
fn a_chunk_is_hashed_as_documented() {
    let frames = [(0, 1), (1, 2), (2, 3), (77, 4), (510, 5), (511, 6)];
    let there = set(&frames.map(|(frame, _)| frame));
    let digest = ChunkDigest::of(SnapshotKind::Vm, &there, &content(&frames)).unwrap();
    assert_eq!(digest.0, documented_chunk(&frames));
    let all: Vec<(u32, u8)> = (0..512).map(|frame| (frame, frame as u8 | 1)).collect();
    let digest = ChunkDigest::of(SnapshotKind::Vm, &FrameSet::FULL, &content(&all)).unwrap();
    assert_eq!(digest.0, documented_chunk(&all));
}

#[test]
fn a_frame_of_zeros_is_a_hole_of_a_vm_and_a_page_of_a_process() {
    let (some, more) = (set(&[5]), set(&[5, 6]));
    let content = content(&[(5, 9)]);
    let digest = |kind, there: &FrameSet| ChunkDigest::of(kind, there, &content);
    let vm = digest(SnapshotKind::Vm, &some);
    assert_eq!(vm, digest(SnapshotKind::Vm, &more));
    let process = digest(SnapshotKind::Process, &some);
    assert_eq!(vm, process, "the kind is in the root");
    assert_ne!(process, digest(SnapshotKind::Process, &more));
    assert_eq!(digest(SnapshotKind::Vm, &set(&[7, 8])), None);
    assert_eq!(digest(SnapshotKind::Process, &FrameSet::EMPTY), None);
    assert!(digest(SnapshotKind::Process, &set(&[7])).is_some());
}

#[test]
fn a_root_is_computed_as_documented_and_is_of_all_that_a_snapshot_is() {
    let digest = ChunkDigest::of(SnapshotKind::Vm, &set(&[3]), &content(&[(3, 1)]));
    let other = ChunkDigest::of(SnapshotKind::Vm, &set(&[3]), &content(&[(3, 2)]));
    let root = |kind, bytes: u64, state: &[u8], chunks: &[(u32, Option<ChunkDigest>)]| {
        let mut hasher = RootHasher::begin(kind, bytes, state);
        for (index, digest) in chunks {
            hasher.add(ChunkIndex::new(*index), *digest);
        }
        hasher.finish()
    };
    let vm = SnapshotKind::Vm;
    let this = root(vm, 64 << 20, b"state", &[(2, digest), (3, None)]);
    let mut text = Vec::new();
    for word in [1, 64 << 20, 5u64] {
        text.extend(word.to_le_bytes());
    }
    text.extend(blake3::hash(b"state").as_bytes());
    text.extend(2u64.to_le_bytes());
    text.extend(digest.unwrap().0);
    assert_eq!(this.bytes(), blake3::derive_key(ROOT_CONTEXT, &text));
    for other in [
        root(SnapshotKind::Process, 64 << 20, b"state", &[(2, digest)]),
        root(vm, 32 << 20, b"state", &[(2, digest)]),
        root(vm, 64 << 20, b"State", &[(2, digest)]),
        root(vm, 64 << 20, b"state", &[(3, digest)]),
        root(vm, 64 << 20, b"state", &[(2, other)]),
        root(vm, 64 << 20, b"state", &[]),
        root(vm, 64 << 20, b"state", &[(2, digest), (4, digest)]),
    ] {
        assert_ne!(this, other);
    }
}

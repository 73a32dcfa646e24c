//! Files that are no pool, or were one: each gets an error or a finding, never a panic.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nvvmm_snapshot::{
    BlockNo, ChunkIndex, ChunkMap, CreateOptions, Error, LeafBlocks, NewMap, NewSnapshot, Pool,
    SnapshotEntry, SnapshotKind,
};
use proptest::prelude::*;

const SIZE: u64 = 16 << 20;
const MEMORY: u64 = 300 * (2 << 20);
const TABLES_END: u64 = (320 + 1 + 8) * 4096;

/// A pool with two snapshots, closed in order, and one that was copied while a VM used it.
struct Images {
    closed: Vec<u8>,
    in_use: Vec<u8>,
    closed_metadata: Vec<u64>,
    in_use_metadata: Vec<u64>,
    /// Offsets of snapshots' data: nothing guards it, so nothing can find it changed.
    data: Vec<u64>,
    content: Content,
}

type Content = Vec<(SnapshotEntry, Vec<(ChunkIndex, ChunkMap)>, Vec<u8>)>;

fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("pool");
        let pool = Pool::create(
            &path,
            &CreateOptions {
                size_bytes: SIZE,
                overcommit: false,
            },
        )
        .unwrap();
        let vm = pool.hold("vm").unwrap();
        let whole = vm.alloc_chunk().unwrap();
        whole
            .blocks()
            .for_each(|block| vm.write_block(block, &[0x55; 4096]).unwrap());
        let single = vm.alloc_blocks(8).unwrap();
        let mut leaf = LeafBlocks::new();
        for (index, block) in (0u32..).zip(&single) {
            vm.write_block(*block, &[0x66; 4096]).unwrap();
            leaf.set(index * 60, Some(*block));
        }
        let data: Vec<u64> = whole
            .blocks()
            .chain(single.iter().copied())
            .map(|block| block.byte_offset())
            .collect();
        let first_changes = [
            (ChunkIndex::new(0), ChunkMap::Whole(whole)),
            (ChunkIndex::new(299), ChunkMap::Frames(Arc::new(leaf))),
        ];
        let mut base = None;
        for (name, changes) in [
            ("first", &first_changes[..]),
            ("second", &[(ChunkIndex::new(0), ChunkMap::Hole)]),
        ] {
            let new = NewSnapshot {
                kind: SnapshotKind::Vm,
                name,
                parent: base,
                base,
                maps: vec![NewMap::memory(MEMORY, changes)],
                state: &[0x77; 9000],
                frames_new: 1,
            };
            base = Some(vm.commit_snapshot(new, vm.reserve(0).unwrap()).unwrap().id);
        }
        let pages = [(
            ChunkIndex::new(0),
            ChunkMap::Frames(Arc::new(pages_of(&single[2..5]))),
        )];
        let image = process_image("image", 9, &pages);
        vm.commit_snapshot(image, vm.reserve(0).unwrap()).unwrap();
        vm.alloc_blocks(5)
            .unwrap()
            .iter()
            .for_each(|block| vm.write_block(*block, &[0x88; 4096]).unwrap());
        let in_use = fs::read(&path).unwrap();
        let content = content(&pool).unwrap();
        drop((vm, pool));
        let closed = fs::read(&path).unwrap();
        let (closed_metadata, in_use_metadata) = (
            metadata_offsets(&closed, &data),
            metadata_offsets(&in_use, &data),
        );
        Images {
            closed,
            in_use,
            closed_metadata,
            in_use_metadata,
            data,
            content,
        }
    })
}

/// Every other page is a hole.
fn pages_of(blocks: &[BlockNo]) -> LeafBlocks {
    let mut leaf = LeafBlocks::new();
    for (index, block) in (0u32..).zip(blocks) {
        leaf.set(index * 2, Some(*block));
    }
    leaf
}

fn process_image<'a>(
    name: &'a str,
    pages: u64,
    changes: &'a [(ChunkIndex, ChunkMap)],
) -> NewSnapshot<'a> {
    NewSnapshot {
        kind: SnapshotKind::Process,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(pages * 4096, changes)],
        state: &[0x99; 5000],
        frames_new: 0,
    }
}

fn write_image(directory: &Path, bytes: &[u8]) -> PathBuf {
    let path = directory.join("pool");
    let file = fs::File::create(&path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, block) in bytes
        .chunks(4096)
        .enumerate()
        .filter(|(_, block)| **block != [0; 4096])
    {
        file.write_all_at(block, at as u64 * 4096).unwrap();
    }
    path
}

thread_local! {
    /// Place of the image of [`open_image`]: nothing is committed into a pool without a file.
    static PLACE: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").unwrap();
}

/// Opens a pool with these bytes; its file stays until this thread opens the next one.
fn open_image(bytes: &[u8]) -> Result<Arc<Pool>, Error> {
    PLACE.with(|place| {
        let _ = fs::remove_file(place.path().join("pool"));
        Pool::open(&write_image(place.path(), bytes))
    })
}

fn content(pool: &Arc<Pool>) -> Result<Content, Error> {
    let reader = pool.hold("reader")?;
    let mut all = Vec::new();
    for entry in pool.snapshots()? {
        let (_, map) = reader.pin(&entry.name)?;
        let chunks = map.iter_present().collect::<Result<Vec<_>, _>>()?;
        (0..map.chunks_total())
            .step_by(13)
            .try_for_each(|index| map.chunk(index).map(|_| ()))?;
        let state = pool.read_state(entry.id)?;
        reader.unpin(entry.id)?;
        all.push((entry, chunks, state));
    }
    Ok(all)
}

/// Uses all that can be used. Errors are fine.
fn exercise(pool: &Arc<Pool>) -> Result<(), Error> {
    pool.status()?;
    let vm = pool.hold("vm")?;
    let entry = vm.pin("second")?.0;
    let changes = vm.alloc_blocks(2).map(|blocks| {
        let mut leaf = LeafBlocks::new();
        leaf.set(4, Some(blocks[0]));
        [(ChunkIndex::new(100), ChunkMap::Frames(Arc::new(leaf)))]
    })?;
    vm.alloc_chunk()?;
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "third",
        parent: None,
        base: Some(entry.id),
        maps: vec![NewMap::memory(MEMORY, &changes)],
        state: b"",
        frames_new: 0,
    };
    let third = vm.commit_snapshot(new, vm.reserve(0)?)?.id;
    pool.remove("first")?;
    let (image, pages) = vm.pin("image")?;
    let again = [(ChunkIndex::new(0), pages.chunk(0)?)];
    vm.commit_snapshot(process_image("again", 9, &again), vm.reserve(0)?)?;
    pool.remove("image")?;
    vm.unpin(image.id)?;
    vm.unpin_others(third)?;
    let entry = vm.pin("second")?.0;
    vm.consume(entry.id)?;
    Ok(())
}

#[test]
fn the_images_themselves_are_good() {
    let images = images();
    for bytes in [&images.closed, &images.in_use] {
        let pool = open_image(bytes).unwrap();
        assert!(pool.check().unwrap().is_clean());
        assert_eq!(content(&pool).unwrap().len(), 3);
        exercise(&pool).unwrap();
        assert!(pool.check().unwrap().is_clean());
    }
}

#[test]
fn a_file_that_was_cut_off_is_told_so() {
    let bytes = &images().closed;
    for length in [0, 1, 100, 4096, 5000, 8 << 20 | 1, 8 << 20, (16 << 20) - 1] {
        let error = open_image(&bytes[..length]).unwrap_err();
        let expected = if length < 8 << 20 {
            "the smallest pool"
        } else {
            "cut off"
        };
        assert!(error.to_string().contains(expected), "{length}: {error}");
    }
}

#[test]
fn other_files_are_not_pools() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("text");
    fs::write(&path, "Once upon a time\n".repeat(1 << 20)).unwrap();
    let error = Pool::open(&path).unwrap_err();
    assert!(matches!(error, Error::NotAPool { .. }));
    assert!(error.to_string().contains("text"), "{error}");
    assert!(
        matches!(Pool::open(directory.path()), Err(Error::NotAPool { .. })),
        "a directory"
    );
    assert!(
        matches!(
            Pool::open(Path::new("/dev/null")),
            Err(Error::NotAPool { .. })
        ),
        "a device"
    );
    assert!(
        matches!(
            Pool::open(&directory.path().join("none")),
            Err(Error::Io { .. })
        ),
        "nothing"
    );
}

#[test]
fn another_version_is_named() {
    for version in [1, 2, 3, 4, 77] {
        let mut bytes = images().closed.clone();
        for slot in [0, 4096] {
            bytes[slot + 8..slot + 12].copy_from_slice(&u32::to_le_bytes(version));
            bytes[slot + 12..slot + 16].fill(0);
            let checksum = crc32fast::hash(&bytes[slot..slot + 4096]);
            bytes[slot + 12..slot + 16].copy_from_slice(&checksum.to_le_bytes());
            // One slot is enough: the other program has written it.
            let error = open_image(&bytes).unwrap_err();
            assert!(
                matches!(error, Error::Version { found, expected: 7 } if found == version),
                "{error}"
            );
            let text = error.to_string();
            assert!(
                text.contains(&format!("version {version}")) && text.contains("version 7"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_flipped_superblock_is_never_taken_for_another() {
    let images = images();
    let generation =
        |slot: usize| u64::from_le_bytes(images.closed[slot + 16..slot + 24].try_into().unwrap());
    let (newest, older) = if generation(0) > generation(4096) {
        (0, 4096)
    } else {
        (4096, 0)
    };
    for at in (0..120).chain((120..4096).step_by(397)) {
        let mut bytes = images.closed.clone();
        bytes[newest + at] ^= 0x10;
        // The older one is intact, but what it refers to was given back when the newest was
        // complete.
        let error = open_image(&bytes).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}");
        assert!(
            error.to_string().contains("generation"),
            "byte {at}: {error}"
        );
        bytes[older + at] ^= 0x10;
        let error = open_image(&bytes).unwrap_err();
        assert!(
            matches!(error, Error::Damaged { .. } | Error::NotAPool { .. }),
            "byte {at}: {error}"
        );

        let mut bytes = images.closed.clone();
        bytes[older + at] ^= 0x10;
        let pool = open_image(&bytes).unwrap();
        let findings = pool.check().unwrap().findings;
        assert_eq!(findings.len(), 1, "byte {at}: {findings:?}");
        assert!(findings[0].contains("superblock slot"), "{}", findings[0]);
        assert_eq!(content(&pool).unwrap(), images.content);
    }
}

#[test]
fn a_flipped_count_is_found_and_derived_anew_after_a_crash() {
    let images = images();
    // The first row of the superblock's segments says where the block table is.
    let table = 4096
        * u64::from(u32::from_le_bytes(
            images.closed[116..120].try_into().unwrap(),
        ));
    let count_of = |byte: u64| table + byte / (2 << 20) * 4096 + byte % (2 << 20) / 1024;
    for offset in [
        count_of(images.data[0]),
        count_of(SIZE - 4096),
        320 * 4096 + 8 * 7 + 4,
    ] {
        let mut bytes = images.closed.clone();
        bytes[offset as usize] ^= 2;
        let findings = open_image(&bytes).unwrap().check().unwrap().findings;
        assert!(
            findings
                .iter()
                .any(|finding| finding.contains("count") || finding.contains("used")),
            "{findings:?}"
        );
        let mut bytes = images.in_use.clone();
        bytes[offset as usize] ^= 2;
        assert!(
            open_image(&bytes).unwrap().check().unwrap().is_clean(),
            "recovery derives it"
        );
    }
}

#[test]
fn a_process_image_of_another_kind_or_size_is_refused() {
    let images = images();
    let image = images
        .content
        .iter()
        .find(|(entry, ..)| entry.name == "image")
        .unwrap();
    assert_eq!(image.0.kind, SnapshotKind::Process);
    let id_of = |at: usize| u64::from_le_bytes(images.closed[at + 24..at + 32].try_into().unwrap());
    let inode = (0..images.closed.len())
        .step_by(4096)
        .find(|at| images.closed[*at..].starts_with(b"NVIN") && id_of(*at) == image.0.id.get())
        .unwrap();
    // The kind; the size of its memory; its end between two pages; more pages than its chunk has;
    // the height of its map.
    let fields: [(usize, &[u8]); 6] = [
        (6, &[0]),
        (6, &[3]),
        (48, &[0; 8]),
        (48, &[1]),
        (72, &513u64.to_le_bytes()),
        (64, &[1]),
    ];
    for (at, value) in fields {
        let mut bytes = images.closed.clone();
        bytes[inode + at..inode + at + value.len()].copy_from_slice(value);
        bytes[inode + 12..inode + 16].fill(0);
        let checksum = crc32fast::hash(&bytes[inode..inode + 4096]);
        bytes[inode + 12..inode + 16].copy_from_slice(&checksum.to_le_bytes());
        let damaged = open_image(&bytes).and_then(|pool| content(&pool));
        let error = damaged.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}");
    }
}

#[test]
fn a_block_that_is_two_things_is_found() {
    let mut bytes = images().in_use.clone();
    let mut inodes: Vec<usize> = (0..bytes.len())
        .step_by(4096)
        .filter(|at| bytes[*at..].starts_with(b"NVIN"))
        .collect();
    // In the order that they were taken in.
    inodes.sort_by_key(|at| u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap()));
    // The second snapshot's state begins with the first one's inode; every checksum is right, and
    // recovery derives the counts.
    let (first, second) = (inodes[0], inodes[1]);
    bytes[second + 2048..second + 2052].copy_from_slice(&((first / 4096) as u32).to_le_bytes());
    let mut state = Vec::new();
    for word in bytes[second + 2048..second + 2060].chunks(4) {
        let block = u32::from_le_bytes(word.try_into().unwrap()) as usize * 4096;
        state.extend_from_slice(&bytes[block..block + 4096]);
    }
    let checksum = crc32fast::hash(&state[..9000]);
    bytes[second + 92..second + 96].copy_from_slice(&checksum.to_le_bytes());
    bytes[second + 12..second + 16].fill(0);
    let checksum = crc32fast::hash(&bytes[second..second + 4096]);
    bytes[second + 12..second + 16].copy_from_slice(&checksum.to_le_bytes());

    let findings = open_image(&bytes).unwrap().check().unwrap().findings;
    assert!(
        findings
            .iter()
            .any(|finding| finding.contains("is the inode of slot")),
        "{findings:?}"
    );
}

/// Bytes of metadata: the fixed areas, and every written block that is not a snapshot's data.
fn metadata_offsets(image: &[u8], data: &[u64]) -> Vec<u64> {
    let mut offsets: Vec<u64> = (0..TABLES_END / 4096).map(|block| block * 4096).collect();
    let written = image
        .chunks(4096)
        .enumerate()
        .skip(TABLES_END as usize / 4096);
    let written = written
        .filter(|(_, block)| **block != [0; 4096])
        .map(|(at, _)| at as u64 * 4096);
    offsets.extend(written.filter(|offset| !data.contains(offset)));
    offsets.retain(|offset| {
        image[*offset as usize..*offset as usize + 4096]
            .iter()
            .any(|byte| *byte != 0)
    });
    offsets
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: nvvmm_test_profile::cases(100, 300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn flipped_bits_are_found_or_harmless(
        in_use in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..4096u64, 0..8u32), 1..6),
        early in any::<bool>(),
    ) {
        let images = images();
        let mut bytes = if in_use { images.in_use.clone() } else { images.closed.clone() };
        let offsets = if in_use { &images.in_use_metadata } else { &images.closed_metadata };
        for (block, at, bit) in flips {
            // Most of what matters is at the beginning of a block.
            let at = if early { at % 128 } else { at };
            bytes[(offsets[block.index(offsets.len())] + at) as usize] ^= 1 << bit;
        }
        if let Ok(pool) = open_image(&bytes) {
            let clean = pool.check().is_ok_and(|report| report.is_clean());
            let found = content(&pool);
            if clean {
                prop_assert_eq!(
                    &found.unwrap(),
                    &images.content,
                    "nothing was found, but something is different"
                );
            }
            let _ = exercise(&pool);
            let _ = pool.check();
        }
    }
}

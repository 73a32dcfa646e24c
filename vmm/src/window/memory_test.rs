use std::fs;

use nvvmm_snapshot::{
    CHUNK_BLOCKS, ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot,
    SnapshotKind,
};

use super::*;
use crate::window::test_mount::{cannot_mount, read};

const PAGES: u32 = 700;
const HOLE: u32 = 8;

struct Bench {
    _directory: tempfile::TempDir,
    pool: Arc<Pool>,
    _holder: Holder,
    map: FrameMap,
}

/// An image whose page N is full of N, in blocks that run backwards but for two pages; two pages
/// are in one block.
fn bench() -> Bench {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let holder = pool.hold("window").unwrap();
    let mut blocks = holder.alloc_blocks(PAGES).unwrap();
    blocks.reverse();
    blocks.swap(0, 600);
    let mut leaves = [LeafBlocks::new(), LeafBlocks::new()];
    for (page, block) in (0..).zip(blocks).filter(|(page, _)| *page != HOLE) {
        let content = [page as u8; BLOCK_SIZE_BYTES as usize];
        holder.write_block(block, &content).unwrap();
        let chunk = &mut leaves[(page / CHUNK_BLOCKS) as usize];
        chunk.set(page % CHUNK_BLOCKS, Some(block));
    }
    let twice = leaves[0].get(5);
    leaves[0].set(6, twice);
    let changes: Vec<_> = (0..)
        .map(ChunkIndex::new)
        .zip(leaves.map(|leaf| ChunkMap::Frames(Arc::new(leaf))))
        .collect();
    let image = NewSnapshot {
        kind: SnapshotKind::Process,
        name: "image",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(
            u64::from(PAGES) * BLOCK_SIZE_BYTES,
            &changes,
        )],
        state: b"none",
        frames_new: 0,
    };
    holder
        .commit_snapshot(image, holder.reserve(0).unwrap())
        .unwrap();
    let (_, map) = holder.pin("image").unwrap();
    Bench {
        _directory: directory,
        pool,
        _holder: holder,
        map,
    }
}

#[test]
fn a_window_shows_every_page_of_an_image() {
    if cannot_mount() {
        return;
    }
    let bench = bench();
    let window = WindowMemory::of_image(&bench.pool, &bench.map, PAGES.into(), 100).unwrap();
    let mut bytes = vec![0; window.reservation().size_bytes()];
    window.reservation().read(0, &mut bytes).unwrap();
    let shown = tempfile::NamedTempFile::new().unwrap();
    fs::write(shown.path(), bytes).unwrap();
    let pages = read(shown.path());
    assert_eq!(pages.len() as u64, u64::from(PAGES) * BLOCK_SIZE_BYTES);
    for (number, page) in (0u32..).zip(pages.chunks(BLOCK_SIZE_BYTES as usize)) {
        let expected = match number {
            HOLE => 0,
            6 => 5,
            number => number as u8,
        };
        assert!(page.iter().all(|byte| *byte == expected), "page {number}");
    }
}

#[test]
fn an_image_in_too_many_pieces_or_too_large_is_refused() {
    let bench = bench();
    let refused = WindowMemory::of_image(&bench.pool, &bench.map, PAGES.into(), 1);
    assert!(
        matches!(refused, Err(WindowError::TooManyPieces { limit: 1, .. })),
        "{refused:?}"
    );
    let pages = ROOM_BYTES / BLOCK_SIZE_BYTES + 1;
    let refused = WindowMemory::of_image(&bench.pool, &bench.map, pages, 100);
    assert!(
        matches!(refused, Err(WindowError::TooLarge { .. })),
        "{refused:?}"
    );
}

use nvvmm_snapshot::SnapshotSpace;

use super::*;

fn map(chunks: Vec<ChunkUse>) -> PoolMap {
    PoolMap {
        size_bytes: chunks.len() as u64 * CHUNK_SIZE_BYTES,
        chunks,
        holders: vec!["web".into()],
        snapshots: vec![SnapshotSpace {
            name: "base".into(),
            own_bytes: 4096,
            shared_bytes: 2 << 20,
        }],
    }
}

fn chunk(shared: u32, own: u32, leased: u32, metadata: u32) -> ChunkUse {
    ChunkUse {
        shared,
        own,
        leased,
        metadata,
        free: 512 - shared - own - leased - metadata,
        snapshots_max: if shared > 0 { 3 } else { own.min(1) },
        holder: (leased > 0).then_some(0),
    }
}

#[test]
fn the_terminal_shows_a_sign_for_each_chunk_of_a_small_pool() {
    let chunks = vec![
        chunk(0, 0, 0, 512),
        chunk(512, 0, 0, 0),
        chunk(0, 1, 0, 0),
        chunk(0, 1, 511, 0),
        chunk(0, 0, 0, 0),
    ];
    let text = text(&map(chunks));
    assert!(text.starts_with("       0 B  ░█▓▒·\n"), "{text}");
    assert!(
        text.contains("a sign is 2.0 MiB") && text.contains("  █    2.0 MiB  memory of several"),
        "{text}"
    );
    assert!(text.contains("base      4.0 KiB  2.0 MiB\n"), "{text}");
}

#[test]
fn a_large_pool_fits_into_the_terminal_and_the_drawing() {
    let large = map(vec![chunk(100, 100, 0, 0); 1 << 16]);
    let text = text(&large);
    assert!(text.lines().count() < TEXT_LINES + 12, "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 80), "{text}");
    let drawn = svg(&large).unwrap();
    assert!(drawn.len() < 4 << 20, "{} bytes", drawn.len());
}

#[test]
fn the_drawing_has_a_square_for_each_chunk_and_a_bar_for_each_snapshot() {
    let drawn = svg(&map(vec![chunk(512, 0, 0, 0), chunk(0, 256, 0, 0)])).unwrap();
    // Two squares, each with what is in it; five of the legend; a bar in two parts; and the ground.
    assert_eq!(drawn.matches("<rect").count(), 1 + 4 + 5 + 2, "{drawn}");
    assert!(drawn.contains("base, own 4.0 KiB"), "{drawn}");
    let empty = PoolMap {
        snapshots: Vec::new(),
        ..map(vec![chunk(0, 0, 0, 512)])
    };
    assert!(svg(&empty).unwrap().contains("Pool of 2.0 MiB"));
}

#[test]
fn what_more_snapshots_have_is_darker() {
    let colour = KINDS[0].colour;
    assert_eq!(darker(colour, 2), colour);
    assert!(darker(colour, 4).2 < colour.2 && darker(colour, 1000).2 < darker(colour, 4).2);
}

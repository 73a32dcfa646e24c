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
        disks: 0,
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
    let text = text(&map(chunks), 80);
    assert!(text.starts_with("       0 B  PSoV.\n"), "{text}");
    assert!(
        text.contains("a sign is 2.0 MiB") && text.contains("  S s    2.0 MiB  memory of several"),
        "{text}"
    );
    assert!(text.contains("base      4.0 KiB  2.0 MiB\n"), "{text}");
}

#[test]
fn a_large_pool_fits_into_the_terminal_and_the_drawing() {
    let large = map(vec![chunk(100, 100, 0, 0); 1 << 16]);
    for (width, lines_max) in [
        (40, 120),
        (60, 65),
        (77, 40),
        (80, 40),
        (120, 40),
        (200, 28),
    ] {
        let text = text(&large, width);
        assert!(text.lines().count() <= lines_max, "{width}: {text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= width),
            "{width}: {text}"
        );
        let signs = text.lines().take_while(|line| !line.is_empty());
        assert!(signs.clone().all(|line| line.chars().count() <= width));
        // Every chunk is in the picture once.
        let cells: usize = signs.map(|line| line.chars().count() - TEXT_MARGIN).sum();
        assert_eq!(
            cells,
            (1usize << 16).div_ceil((1usize << 16).div_ceil(TEXT_CELLS_MAX))
        );
    }
    let drawn = svg(&large).unwrap();
    assert!(drawn.len() < 4 << 20, "{} bytes", drawn.len());
}

#[test]
fn the_drawing_has_a_square_for_each_chunk_and_a_bar_for_each_snapshot() {
    let drawn = svg(&map(vec![chunk(512, 0, 0, 0), chunk(0, 256, 0, 0)])).unwrap();
    // Two squares, each with what is in it; five of the legend; a bar in two parts; and the ground.
    assert_eq!(drawn.matches("<rect").count(), 1 + 4 + 5 + 2, "{drawn}");
    assert!(
        drawn.contains("base: own 4.0 KiB, shared 2.0 MiB"),
        "{drawn}"
    );
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

/// The fault: 80 MiB were drawn for 176 KiB.
#[test]
fn chunks_of_which_little_is_used_do_not_look_full() {
    let sparse = map(vec![chunk(0, 1, 0, 0); 40]);
    let text = text(&sparse, 80);
    assert!(
        text.starts_with(&format!("       0 B  {}\n", "o".repeat(40))),
        "{text}"
    );
    assert!(
        text.contains("  O o  160.0 KiB  memory of one snapshot"),
        "{text}"
    );
    let half = map(vec![chunk(0, 255, 0, 0), chunk(0, 256, 0, 0)]);
    assert!(super::text(&half, 80).starts_with("       0 B  oO\n"));
}

/// The fault: 24 of 44 snapshots were drawn, without a word.
#[test]
fn the_drawing_has_all_snapshots_or_says_how_many_it_has_not() {
    let with = |count: u64| PoolMap {
        snapshots: (0..count)
            .map(|number| SnapshotSpace {
                name: format!("s{number}"),
                own_bytes: 4096,
                shared_bytes: 0,
            })
            .collect(),
        ..map(vec![chunk(0, 1, 0, 0)])
    };
    let drawn = svg(&with(44)).unwrap();
    assert_eq!(drawn.matches(": own 4.0 KiB").count(), 44);
    assert!(!drawn.contains("not drawn"));
    let drawn = svg(&with(257)).unwrap();
    assert_eq!(
        drawn.matches("s1: own").count() + drawn.matches("s256: own").count(),
        2
    );
    assert!(drawn.contains("and 1 older snapshot, not drawn: own 4.0 KiB"));
    assert!(
        svg(&with(300))
            .unwrap()
            .contains("and 44 older snapshots, not drawn")
    );
}

#[test]
fn a_long_name_stays_in_the_drawing() {
    assert_eq!(cut_off("base"), "base");
    assert_eq!(cut_off(&"n".repeat(128)).chars().count(), NAME_SHOWN + 1);
}

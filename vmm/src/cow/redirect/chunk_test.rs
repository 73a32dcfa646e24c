use nvvmm_snapshot::{BlockNo, ChunkMap, ChunkNo, FrameIndex, FrameSet};

use super::chunk::{KnownChunk, target_runs};
use crate::cow::{
    Budget, CHUNK_FRAMES, CopyPolicy,
    frames::{runs, set_of},
};

fn chunk(number: u32) -> ChunkNo {
    ChunkNo::new(number).unwrap()
}

fn at(frame: u32) -> FrameIndex {
    FrameIndex::new(frame)
}

fn whole(number: u32) -> KnownChunk {
    let mut known = KnownChunk::unmapped(ChunkMap::Whole(chunk(number)), FrameSet::FULL);
    known.note_mapped();
    known
}

#[test]
fn a_set_gives_back_its_frames_as_runs() {
    let set = set_of([0, 1, 2, 63, 64, 511]);
    assert_eq!(runs(&set), [0..3, 63..65, 511..512]);
    assert_eq!(set.count(), 6);
    assert_eq!(runs(&FrameSet::FULL), vec![0..CHUNK_FRAMES]);
    assert!(runs(&FrameSet::EMPTY).is_empty());
}

#[test]
fn a_contiguous_chunk_is_one_mapping() {
    assert_eq!(whole(7).mappings_now(), 1);
    let untouched = KnownChunk::unmapped(ChunkMap::Whole(chunk(7)), FrameSet::FULL);
    assert_eq!(untouched.mappings_now(), 0);
}

#[test]
fn a_redirected_cluster_splits_the_mapping_and_a_full_redirect_heals_it() {
    let mut known = whole(7);
    let fresh = chunk(9);
    let cluster: Vec<_> = FrameIndex::range(16..32)
        .map(|frame| (frame, fresh.block(frame)))
        .collect();
    known.replace(&cluster);
    assert_eq!(known.block(15), Some(chunk(7).block(15)));
    assert_eq!(known.block(16), Some(fresh.block(16)));
    assert_eq!(known.mappings_now(), 3);
    let all: Vec<_> = FrameIndex::all()
        .map(|frame| (frame, fresh.block(frame)))
        .collect();
    known.replace(&all);
    assert_eq!(
        known.map(),
        &ChunkMap::Whole(fresh),
        "512 blocks in a row are said as one chunk"
    );
    assert_eq!(known.mappings_now(), 1);
}

#[test]
fn a_map_that_was_handed_to_a_snapshot_does_not_change() {
    let mut known = whole(7);
    known.replace(&[(at(3), chunk(9).block(3))]);
    let handed = known.map().clone();
    known.replace(&[(at(3), chunk(10).block(3))]);
    let ChunkMap::Frames(blocks) = handed else {
        panic!("one frame differs: {handed:?}")
    };
    assert_eq!(blocks.get(3), Some(chunk(9).block(3)));
}

#[test]
fn holes_and_private_frames_are_mappings_of_their_own() {
    let mut known = KnownChunk::unmapped(ChunkMap::Hole, FrameSet::EMPTY);
    known.note_mapped();
    assert_eq!(known.mappings_now(), 1, "one run of nothing");
    known.replace(&[
        (at(4), BlockNo::new(5000)),
        (at(5), BlockNo::new(5001)),
        (at(6), BlockNo::new(6000)),
    ]);
    assert_eq!(known.mappings_now(), 4, "hole, 4..6, 6, hole");
    known.note_unarmed(&set_of([5]));
    assert_eq!(known.mappings_now(), 5);
}

#[test]
fn targets_form_runs_where_frames_and_blocks_both_go_on() {
    let runs = target_runs(&[
        (at(0), BlockNo::new(10)),
        (at(1), BlockNo::new(11)),
        (at(3), BlockNo::new(12)),
        (at(4), BlockNo::new(20)),
    ]);
    let frames: Vec<_> = runs.iter().map(|run| run.frames.clone()).collect();
    assert_eq!(frames, [0..2, 3..4, 4..5]);
}

#[test]
fn clusters_grow_as_the_budget_runs_out() {
    let budget = Budget::with_limit(800);
    let mut last = 0;
    for step in 0..9 {
        let frames = budget.cluster_frames(None);
        assert!(frames >= last, "{frames} after {last} at step {step}");
        last = frames;
        budget.changed(0, 100);
    }
    assert_eq!(last, CHUNK_FRAMES);
    assert!(budget.is_spent());
    budget.changed(900, 100);
    assert!(!budget.is_spent());
    assert_eq!(
        budget.cluster_frames(Some(32)),
        64,
        "a sequential writer gets what it asks for"
    );
}

#[test]
fn a_fixed_cluster_grows_for_the_budget_only() {
    let budget = Budget::of(CopyPolicy {
        mappings_max: Some(800),
        ..CopyPolicy::fixed(4)
    });
    assert_eq!(budget.cluster_frames(None), 4);
    assert_eq!(budget.cluster_frames(Some(4)), 4);
    budget.changed(0, 500);
    assert_eq!(budget.cluster_frames(Some(4)), 16);
    budget.changed(0, 250);
    assert_eq!(budget.cluster_frames(None), CHUNK_FRAMES);
}

use super::*;

fn frame(chunk: u64) -> u64 {
    chunk * u64::from(CHUNK_FRAMES)
}

#[test]
fn the_chunks_behind_a_run_are_next_as_far_as_half_of_it_goes() {
    let mut writes = DenseWrites::default();
    let mut copied = Vec::new();
    let mut at = 0;
    while at < 40 {
        let ahead = writes.frames_ahead(frame(at));
        writes.note(frame(at), frame(at + 1));
        writes.go_on_behind(ChunkIndex::new(at as u32), ahead, 1000);
        let mut here = vec![at];
        while let Some((next, _)) = writes.take_next() {
            assert_eq!(u64::from(next.get()), at + here.len() as u64);
            let next = u64::from(next.get());
            writes.extend(frame(next), frame(next + 1));
            here.push(next);
        }
        at += here.len() as u64;
        copied.push(here.len());
    }
    assert_eq!(copied, [1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 8]);
}

#[test]
fn no_chunk_is_next_behind_the_end_of_memory_or_after_a_stop() {
    let mut writes = DenseWrites::default();
    writes.go_on_behind(ChunkIndex::new(5), 4 * CHUNK_FRAMES, 7);
    assert_eq!(writes.take_next(), Some((ChunkIndex::new(6), 0)));
    assert_eq!(writes.take_next(), None);
    writes.go_on_behind(ChunkIndex::new(6), 4 * CHUNK_FRAMES, 7);
    assert_eq!(writes.take_next(), None);
    writes.go_on_behind(ChunkIndex::new(1), 4 * CHUNK_FRAMES, 7);
    writes.stop();
    assert_eq!(writes.take_next(), None);
}

#[test]
fn writes_at_random_are_no_run() {
    let mut writes = DenseWrites::default();
    for step in 0..1000 {
        let at = step * 7919 % 100_000;
        assert_eq!(writes.frames_ahead(at), 1);
        writes.note(at, at + 16);
    }
}

#[test]
fn a_run_goes_on_after_a_snapshot_as_a_short_one() {
    let mut writes = DenseWrites::default();
    (0..20).for_each(|chunk| writes.note(frame(chunk), frame(chunk + 1)));
    assert_eq!(writes.frames_ahead(frame(20)), 8 * CHUNK_FRAMES);
    // The guest was in the last chunk that was copied.
    let at = frame(19) + 100;
    assert_eq!(writes.frames_ahead(at), CHUNK_FRAMES);
    writes.note(at, frame(20));
    assert_eq!(writes.frames_ahead(frame(20)), CHUNK_FRAMES);
    // It never comes back to those before.
    assert_eq!(writes.frames_ahead(frame(10) + 100), 1);
}

#[test]
fn a_short_run_that_a_snapshot_interrupts_copies_no_more_than_half_of_it() {
    let mut writes = DenseWrites::default();
    writes.note(1000, 1016);
    writes.note(1016, 1040);
    assert_eq!(writes.frames_ahead(1020), 8);
    assert_eq!(writes.frames_ahead(1010), 1);
}

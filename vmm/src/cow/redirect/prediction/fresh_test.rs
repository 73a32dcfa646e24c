use super::*;

/// Touches of a writer that goes through `frames` frames: those that are held.
fn held(runs: &mut FreshRuns, start: u64, frames: u64) -> Vec<u64> {
    let mut held = Vec::new();
    let mut at = start;
    while at < start + frames {
        held.push(at - start);
        let size = u64::from(runs.frames_ahead(at).clamp(16, 512));
        let end = at / size * size + size;
        runs.note(at, end);
        at = end;
    }
    held
}

#[test]
fn a_stretch_gets_memory_in_ever_larger_pieces() {
    let mut runs = FreshRuns::default();
    let held = held(&mut runs, 0, 2048);
    assert_eq!(
        held,
        [
            0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536
        ]
    );
}

#[test]
fn no_more_than_half_of_a_stretch_and_a_cluster_is_given_in_vain() {
    for frames in 1..3000 {
        let mut runs = FreshRuns::default();
        let last = *held(&mut runs, 0, frames).last().unwrap();
        let given = runs.0[0].end;
        assert!(given <= frames + frames / 2 + 16, "{given} for {frames}");
        assert!(last < frames);
    }
}

#[test]
fn two_writers_in_turn_have_a_stretch_each() {
    let mut runs = FreshRuns::default();
    let far = 1 << 20;
    for at in [0, 16, 32, 48] {
        runs.note(at, at + 16);
        runs.note(far + at, far + at + 16);
    }
    assert_eq!(runs.frames_ahead(64), 32);
    assert_eq!(runs.frames_ahead(far + 64), 32);
    assert_eq!(runs.frames_ahead(far), 1);
    assert_eq!(runs.frames_ahead(0), 1);
}

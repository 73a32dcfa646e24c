//! A medium that lies must be found out, or the other tests here prove nothing.

use super::history::run;
use super::oracle::Oracle;
use super::silence_kills;
use crate::disk::FORGETS_FENCE;
use crate::layout::runtime::{COMMITTED_OFFSET, DIRTY_OFFSET};
use crate::region::sim::{Lie, Random, Undone};

/// States that are looked at before a lie counts as not found.
const STATES: u64 = 60_000;

fn assert_found(lie: &Lie) -> String {
    silence_kills();
    let mut oracle = Oracle::new(None);
    for seed in 0.. {
        let history = Random::new(seed).next();
        if let Err(what) = run(history, &mut oracle, Some(lie), STATES) {
            return what;
        }
        assert!(oracle.states < STATES, "{lie:?} was not found");
    }
    unreachable!("the loop ends")
}

#[test]
fn a_flush_that_is_forgotten_is_found() {
    for every in [1, 2, 7, 31] {
        assert_found(&Lie::about(Undone::Flush, every));
    }
}

#[test]
fn a_fence_that_does_not_wait_is_found() {
    for every in [1, 2, 5] {
        assert_found(&Lie::about(Undone::Fence, every));
    }
}

#[test]
fn a_flush_of_a_disk_that_does_not_wait_is_found() {
    silence_kills();
    FORGETS_FENCE.set(true);
    let mut oracle = Oracle::new(None);
    let found = (0..).find_map(|seed| {
        assert!(oracle.states < STATES, "it was not found");
        run(Random::new(seed).next(), &mut oracle, None, STATES).err()
    });
    FORGETS_FENCE.set(false);
    let what = found.unwrap_or_default();
    assert!(
        what.contains("the log of head") || what.contains("disk d"),
        "{what}"
    );
}

#[test]
fn a_block_that_is_not_zeroed_when_it_is_freed_is_found() {
    for every in [1, 3] {
        assert_found(&Lie::about(Undone::Punch, every));
    }
}

#[test]
fn a_completed_generation_that_is_not_noted_is_found() {
    let word = COMMITTED_OFFSET..COMMITTED_OFFSET + 8;
    assert_found(&Lie::about(Undone::Write(word), 1));
}

#[test]
fn a_dirty_word_that_is_not_set_is_found() {
    let word = DIRTY_OFFSET..DIRTY_OFFSET + 4;
    assert_found(&Lie::about(Undone::Write(word), 1));
}

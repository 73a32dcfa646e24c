//! A medium that lies must be found out, or the other tests here prove nothing.

use std::io::Write;

use super::history::run;
use super::oracle::Oracle;
use super::silence_kills;
use crate::head_log::{Duty, LEFT_OUT};
use crate::layout::runtime::{COMMITTED_OFFSET, DIRTY_OFFSET};
use crate::region::sim::{Lie, Random, Undone};

/// States that are looked at before a lie counts as not found.
const STATES: u64 = 60_000;
/// The first history that is run without a duty: it was the one that found both when all before it
/// were run, too.
const SOON: u64 = 4;

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

fn assert_missed(duty: Duty) {
    silence_kills();
    LEFT_OUT.set(Some(duty));
    let mut oracle = Oracle::new(None);
    let found = (SOON..).find_map(|seed| {
        assert!(oracle.states < STATES, "{duty:?} was not missed");
        run(Random::new(seed).next(), &mut oracle, None, STATES).err()
    });
    LEFT_OUT.set(None);
    // Not by println: a test that passes shall say this, too.
    let what = found.unwrap_or_default();
    let what = what.lines().rev().nth(1).unwrap_or_default();
    writeln!(
        std::io::stderr(),
        "{duty:?}: {} states: {what}",
        oracle.states
    )
    .unwrap();
}

#[test]
fn a_flush_of_a_disk_that_does_not_wait_is_found() {
    assert_missed(Duty::FlushWaits);
}

#[test]
fn records_that_outlive_the_host_without_a_flush_are_found() {
    assert_missed(Duty::CutOff);
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

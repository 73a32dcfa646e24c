extern crate std;
use super::*;
use crate::VCPUS_MAX;
use crate::frame::Stamp;
use crate::journal::{JOURNAL_GPA, Journal, MAGIC, Phase, Progress, WriteEntry};
use crate::order::Pattern;
use core::mem::offset_of;
use std::{vec, vec::Vec};

const FIRST_GFN: u64 = 335;
const SEED: u64 = 7;

/// A machine in the small: vCPUs that write a word at a time, in any interleaving.
#[derive(Clone)]
struct Machine {
    words: Vec<u64>,
    plan: Plan,
    vcpus: u64,
    /// Word of the write under way, by vCPU.
    at_word: [usize; VCPUS_MAX],
    under_way: [Option<Content>; VCPUS_MAX],
    entropy: u64,
}

impl Memory for Machine {
    fn word(&self, gpa: u64) -> u64 {
        self.words.get((gpa / 8) as usize).copied().unwrap_or(0)
    }
}

impl Machine {
    fn new(vcpus: u64, filled: u64, pattern: Pattern) -> Self {
        let plan = Plan::from_parts((vcpus, FIRST_GFN, filled), (SEED, SEED + 1, pattern));
        let words = vec![0; ((FIRST_GFN + filled) * FRAME_BYTES / 8) as usize];
        let mut machine = Self {
            words,
            plan,
            vcpus,
            at_word: [0; 8],
            under_way: [None; 8],
            entropy: 1,
        };
        machine.set(offset_of!(Journal, magic), MAGIC);
        machine.set(offset_of!(Journal, vcpus), vcpus);
        machine.set(offset_of!(Journal, first_gfn), FIRST_GFN);
        machine.set(offset_of!(Journal, frames), filled);
        machine.set(offset_of!(Journal, filled), filled);
        machine.set(offset_of!(Journal, fill_seed), SEED);
        machine.set(offset_of!(Journal, churn_seed), SEED + 1);
        machine.set(offset_of!(Journal, pattern), pattern.code());
        machine.set(offset_of!(Journal, phase), Phase::Filled as u64);
        for index in 0..filled {
            machine.put(machine.plan.fill_stamp(index));
        }
        machine
    }

    fn set(&mut self, offset: usize, word: u64) {
        self.words[(JOURNAL_GPA as usize + offset) / 8] = word;
    }

    fn put(&mut self, stamp: Stamp) {
        let content = Content::new(stamp, Token::new(stamp.seq, 0), Token(0));
        (0..FRAME_WORDS).for_each(|i| *self.frame_word(stamp.gfn, i) = content.word(i));
    }

    fn frame_word(&mut self, gfn: u64, index: usize) -> &mut u64 {
        &mut self.words[(gfn * FRAME_BYTES / 8) as usize + index]
    }

    fn progress(vcpu: u64, field: usize) -> usize {
        offset_of!(Journal, progress) + vcpu as usize * size_of::<Progress>() + field
    }

    fn done(&self, vcpu: u64) -> Token {
        Token(self.word(JOURNAL_GPA + Self::progress(vcpu, offset_of!(Progress, done)) as u64))
    }

    /// Begins a write, writes a few words of it, or finishes it: as the guest's churn does.
    fn step(&mut self, vcpu: u64, words: usize) {
        let n = self.done(vcpu).seq();
        let index = self.plan.target(vcpu, n);
        let Some(content) = self.under_way[vcpu as usize] else {
            self.entropy = crate::mix::mix(self.entropy);
            let (token, link) = (
                Token::new(n + 1, self.entropy),
                self.done(self.plan.linked(vcpu, n)),
            );
            self.set(Self::progress(vcpu, offset_of!(Progress, link)), link.0);
            self.set(Self::progress(vcpu, offset_of!(Progress, begun)), token.0);
            self.under_way[vcpu as usize] =
                Some(Content::new(self.plan.churn_stamp(index, n), token, link));
            self.at_word[vcpu as usize] = 0;
            return;
        };
        let from = self.at_word[vcpu as usize];
        let to = (from + words).min(FRAME_WORDS);
        (from..to).for_each(|i| *self.frame_word(FIRST_GFN + index, i) = content.word(i));
        self.at_word[vcpu as usize] = to;
        if from == FRAME_WORDS {
            let begun =
                self.word(JOURNAL_GPA + Self::progress(vcpu, offset_of!(Progress, begun)) as u64);
            self.set(Self::progress(vcpu, offset_of!(Progress, done)), begun);
            self.under_way[vcpu as usize] = None;
        }
    }

    /// Runs all vCPUs in a random interleaving.
    fn run(&mut self, steps: usize, random: &mut u64) {
        for _ in 0..steps {
            *random = crate::mix::mix(random.wrapping_add(1));
            let words = if *random & 0x300 == 0 {
                1 + (*random >> 32) as usize % 90
            } else {
                FRAME_WORDS
            };
            self.step(*random % self.vcpus, words);
        }
    }

    /// Runs until every vCPU is between two writes.
    fn settle(&mut self) {
        for vcpu in 0..self.vcpus {
            while self.under_way[vcpu as usize].is_some() {
                self.step(vcpu, FRAME_WORDS);
            }
        }
    }

    fn copy_frame(&mut self, from: &Self, gfn: u64) {
        let at = (gfn * FRAME_BYTES / 8) as usize;
        self.words[at..at + FRAME_WORDS].copy_from_slice(&from.words[at..at + FRAME_WORDS]);
    }

    /// The last finished write to this frame, and the one that is under way to it.
    fn writes_of(&self, gfn: u64) -> (Option<u64>, Option<u64>) {
        let index = gfn - FIRST_GFN;
        let owner = self.plan.owner(index);
        let n = self.done(owner).seq();
        let under_way =
            self.under_way[owner as usize].is_some() && self.plan.target(owner, n) == index;
        (self.plan.churned(index, n), under_way.then_some(n))
    }

    /// True if the frame at this instant is an earlier state of the write that it is in at the
    /// `later` instant.
    fn leads_to(&self, later: &Self, gfn: u64) -> bool {
        let (before, after) = (self.writes_of(gfn), later.writes_of(gfn));
        let same_write = before.0 == after.0 && after.1.is_some();
        let finished_it = before.1.is_some() && before.1 == after.0;
        same_write || finished_it
    }

    fn frame_differs(&self, other: &Self, gfn: u64) -> bool {
        let at = (gfn * FRAME_BYTES / 8) as usize;
        self.words[at..at + FRAME_WORDS] != other.words[at..at + FRAME_WORDS]
    }
}

fn what(machine: &Machine) -> Option<What> {
    match instant(machine) {
        Ok(_) => None,
        Err(Failure::Mismatch(mismatch)) => Some(mismatch.what),
        Err(Failure::Unusable(why)) => panic!("{why:?}"),
    }
}

const PATTERNS: [Pattern; 4] = [Pattern::Seq, Pattern::Rand, Pattern::Hot, Pattern::Stride];

#[test]
fn every_instant_of_a_true_run_verifies() {
    for pattern in PATTERNS {
        for vcpus in [1, 2, 3, 8] {
            let mut machine = Machine::new(vcpus, 41, pattern);
            let mut random = vcpus;
            let (mut under_way, mut links) = (0, 0);
            for _ in 0..800 {
                let report =
                    instant(&machine).unwrap_or_else(|e| panic!("{pattern:?} {vcpus}: {e:x?}"));
                assert_eq!(report.frames, 41);
                under_way += report.under_way;
                links += report.links;
                machine.run(1, &mut random);
            }
            assert!(
                under_way > 50 && links > 50,
                "the run must meet what it is to test: {under_way} {links}"
            );
        }
    }
}

/// The heart of it: a memory that has one frame from another instant is never taken for one
/// instant, unless that frame is the same at both, or is one whose write was under way: a shorter
/// or longer prefix of the same write is true as well.
#[test]
fn one_frame_of_another_instant_is_found() {
    let mut found = 0;
    for pattern in PATTERNS {
        for vcpus in [1, 2, 3] {
            let mut machine = Machine::new(vcpus, 24, pattern);
            let mut random = 11 + vcpus;
            machine.run(500, &mut random);
            for distance in [1, 3, 20, 200] {
                let before = machine.clone();
                machine.run(distance, &mut random);
                for gfn in FIRST_GFN..FIRST_GFN + 24 {
                    let differs = before.frame_differs(&machine, gfn);
                    let (mut stale, mut future) = (machine.clone(), before.clone());
                    stale.copy_frame(&before, gfn);
                    future.copy_frame(&machine, gfn);
                    let mismatches = (what(&stale), what(&future));
                    if differs {
                        let context = (pattern, vcpus, distance, gfn);
                        assert!(
                            mismatches.0.is_some() || before.leads_to(&machine, gfn),
                            "stale {context:?}"
                        );
                        assert!(
                            mismatches.1.is_some() || before.leads_to(&machine, gfn),
                            "future {context:?}"
                        );
                        found += usize::from(mismatches.0.is_some())
                            + usize::from(mismatches.1.is_some());
                    } else {
                        assert_eq!(mismatches, (None, None));
                    }
                }
            }
        }
    }
    assert!(found > 500, "{found}");
}

#[test]
fn each_kind_of_lie_has_its_name() {
    let mut machine = Machine::new(2, 64, Pattern::Rand);
    let mut random = 5;
    machine.run(64 * 3 * 5, &mut random);
    machine.settle();
    let before = machine.clone();
    machine.run(64 * 3 * 5, &mut random);
    machine.settle();
    assert_eq!(what(&machine), None);

    let gfn = FIRST_GFN + 13;
    let mismatch = |change: &dyn Fn(&mut Machine)| {
        let mut changed = machine.clone();
        change(&mut changed);
        what(&changed)
    };
    assert_eq!(
        mismatch(&|m| m.copy_frame(&before, gfn)),
        Some(What::Stale),
        "lost write"
    );
    assert_eq!(
        mismatch(&|m| (FIRST_GFN..FIRST_GFN + 64).for_each(|g| m.copy_frame(&before, g))),
        Some(What::Stale),
        "stale chunk"
    );
    assert_eq!(
        mismatch(&|m| (0..FRAME_WORDS).for_each(|i| *m.frame_word(gfn, i) = 0)),
        Some(What::Zero),
        "hole"
    );
    assert_eq!(
        mismatch(&|m| (0..FRAME_WORDS)
            .for_each(|i| *m.frame_word(gfn, i) = m.word((gfn + 2) * 4096 + i as u64 * 8))),
        Some(What::Foreign)
    );
    assert_eq!(
        mismatch(&|m| *m.frame_word(gfn, 100) ^= 1),
        Some(What::Torn)
    );
    assert_eq!(
        mismatch(&|m| (200..FRAME_WORDS)
            .for_each(|i| *m.frame_word(gfn, i) = before.word(gfn * 4096 + i as u64 * 8))),
        Some(What::Torn)
    );
    let mut early = before.clone();
    early.copy_frame(&machine, gfn);
    assert_eq!(what(&early), Some(What::Future), "write from the future");
    let begun = Machine::progress(0, offset_of!(Progress, begun));
    assert_eq!(
        mismatch(&|m| m.set(begun, Token::new(3, 3).0)),
        Some(What::Journal)
    );
}

/// One vCPU's memory and journal come from a later instant than the other's, each true in itself.
#[test]
fn two_vcpus_of_two_instants_are_found() {
    let mut machine = Machine::new(2, 64, Pattern::Seq);
    let mut random = 5;
    machine.run(1000, &mut random);
    machine.settle();
    let before = machine.clone();
    machine.run(300, &mut random);
    machine.settle();
    let mut mixed = machine.clone();
    for index in (1..64).step_by(2) {
        mixed.copy_frame(&before, FIRST_GFN + index);
    }
    for field in [
        offset_of!(Progress, link),
        offset_of!(Progress, begun),
        offset_of!(Progress, done),
    ] {
        let at = Machine::progress(1, field);
        mixed.set(at, before.word(JOURNAL_GPA + at as u64));
    }
    assert_eq!(what(&mixed), Some(What::Causal));

    // The vCPU of the past runs on and overtakes. What the other has seen of it still never
    // happened.
    let token = mixed.done(1);
    while mixed.done(1).seq() < token.seq() + 30 {
        mixed.step(1, FRAME_WORDS);
    }
    mixed.entropy ^= 0xdead;
    mixed.settle();
    assert_eq!(what(&mixed), Some(What::Causal));
}

#[test]
fn write_commands_are_known_before_and_after_churn() {
    let mut machine = Machine::new(2, 64, Pattern::Seq);
    let mut random = 5;
    let write = |machine: &mut Machine, number: usize, (start, count, stride): (u64, u64, u64)| {
        let at = offset_of!(Journal, writes) + (number - 1) * size_of::<WriteEntry>();
        machine.set(at + offset_of!(WriteEntry, start), start);
        machine.set(at + offset_of!(WriteEntry, count), count);
        machine.set(at + offset_of!(WriteEntry, stride), stride);
        for vcpu in 0..2 {
            let done = machine.done(vcpu).seq();
            machine.set(at + offset_of!(WriteEntry, done) + vcpu as usize * 8, done);
        }
        for i in 0..count {
            machine.put(machine.plan.write_stamp(start + i * stride, number as u64));
        }
        machine.set(offset_of!(Journal, writes_len), number as u64);
    };
    write(&mut machine, 1, (3, 5, 7));
    assert_eq!(what(&machine), None);
    write(&mut machine, 2, (3, 2, 1));
    assert_eq!(what(&machine), None);
    let written = machine.clone();
    machine.run(77, &mut random);
    machine.settle();
    let report = instant(&machine).expect("true");
    assert!(report.churned > 20 && report.churned < 50, "{report:?}");
    write(&mut machine, 3, (0, 64, 1));
    assert_eq!(instant(&machine).expect("true").churned, 0);
    let mut lost = machine.clone();
    lost.copy_frame(&written, FIRST_GFN + 3);
    assert_eq!(what(&lost), Some(What::Stale));
}

#[test]
fn without_a_filled_memory_there_is_nothing_to_verify() {
    let mut machine = Machine::new(2, 64, Pattern::Seq);
    machine.set(offset_of!(Journal, phase), Phase::Busy as u64);
    assert_eq!(instant(&machine), Err(Failure::Unusable(Unusable::Busy)));
    machine.set(offset_of!(Journal, phase), Phase::Empty as u64);
    assert_eq!(instant(&machine), Err(Failure::Unusable(Unusable::Empty)));
    machine.set(offset_of!(Journal, magic), 0);
    assert_eq!(
        instant(&machine),
        Err(Failure::Unusable(Unusable::NoJournal))
    );
    let mut machine = Machine::new(2, 64, Pattern::Seq);
    machine.set(offset_of!(Journal, vcpus), 9);
    assert_eq!(
        instant(&machine),
        Err(Failure::Unusable(Unusable::NoJournal))
    );
}

#[test]
fn digest_depends_on_every_word_and_not_on_the_order_of_lanes() {
    let machine = Machine::new(2, 8, Pattern::Seq);
    let whole = digest(&machine, FIRST_GFN, 8);
    assert_eq!(
        whole,
        digest(&machine, FIRST_GFN, 3) ^ digest(&machine, FIRST_GFN + 3, 5)
    );
    assert_eq!(whole, instant(&machine).expect("true").digest);
    let mut changed = machine.clone();
    *changed.frame_word(FIRST_GFN + 5, 77) ^= 1 << 40;
    assert_ne!(whole, digest(&changed, FIRST_GFN, 8));
    assert!(zero_frame(&machine, 0).is_ok());
    assert_eq!(
        zero_frame(&machine, FIRST_GFN).map_err(|mismatch| mismatch.what),
        Err(What::NotZero)
    );
}

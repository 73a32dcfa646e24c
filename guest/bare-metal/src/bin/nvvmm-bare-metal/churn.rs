//! Churn: a vCPU rewrites its frames for ever, and checks each word that it replaces.

use core::sync::atomic::{Ordering, compiler_fence};

use nvvmm_bare_metal::command::Access;
use nvvmm_bare_metal::frame::{Content, FrameChecker, Stamp, Token, What};
use nvvmm_bare_metal::journal::JournalView;
use nvvmm_bare_metal::mix::mix;
use nvvmm_bare_metal::plan::Plan;
use nvvmm_bare_metal::verify::Mismatch;
use nvvmm_bare_metal::{FRAME_WORDS, VCPUS_MAX};

use crate::sys::{self, Frame, JOURNAL, Ram};

/// Turns for which registers are held between two frames: about the time that one write takes.
const HOLD_SPINS: u64 = 4000;

/// One vCPU's churn.
pub struct Churn {
    vcpu: u64,
    ram: Ram,
    access: Access,
    plan: Plan,
    journal: JournalView,
    /// Token of the last finished write, as the journal must have it too.
    last: Token,
    /// The newest token of each other vCPU that this one has seen.
    seen: [Token; VCPUS_MAX],
}

impl Churn {
    /// Continues `vcpu`'s churn where the journal says it stopped.
    pub fn new(vcpu: u64, ram: Ram, access: Access, journal: JournalView) -> Self {
        let last = journal.progress[vcpu as usize].done;
        let plan = Plan::new(&journal);
        Self {
            vcpu,
            ram,
            access,
            plan,
            journal,
            last,
            seen: [Token(0); VCPUS_MAX],
        }
    }

    /// Writes one frame, and holds known values in all registers for a while.
    pub fn step(&mut self) {
        let n = self.last.seq();
        let index = self.plan.target(self.vcpu, n);
        let old = self.plan.stamp(index, n, self.journal.writes());
        let link = self.link(n);
        let token = Token::new(n + 1, mix(sys::tsc() ^ self.vcpu));
        let new = Content::new(self.plan.churn_stamp(index, n), token, link);
        let progress = &JOURNAL.progress[self.vcpu as usize];
        progress.link.store(link.0, Ordering::Relaxed);
        let begun = progress.begun.swap(token.0, Ordering::SeqCst);
        compiler_fence(Ordering::SeqCst);
        self.write(self.ram.frame(old.gfn), old, &new);
        compiler_fence(Ordering::SeqCst);
        let done = progress.done.swap(token.0, Ordering::SeqCst);
        for found in [begun, done] {
            if found != self.last.0 {
                self.fault(Mismatch {
                    gfn: 0,
                    what: What::Journal,
                    word: self.vcpu as usize,
                    found,
                });
            }
        }
        self.last = token;
        let changed = sys::hold_registers(token.0, HOLD_SPINS);
        if changed != 0 {
            self.fault(Mismatch {
                gfn: 0,
                what: What::Registers,
                word: self.vcpu as usize,
                found: changed,
            });
        }
    }

    /// The token that another vCPU has published. Tokens never go back, and never contradict.
    fn link(&mut self, n: u64) -> Token {
        let other = self.plan.linked(self.vcpu, n);
        let link = JOURNAL.done(other);
        let seen = &mut self.seen[other as usize];
        if link.seq() < seen.seq() || (link.seq() == seen.seq() && link != *seen && seen.0 != 0) {
            self.fault(Mismatch {
                gfn: 0,
                what: What::Causal,
                word: other as usize,
                found: link.0,
            });
        } else {
            *seen = link;
        }
        link
    }

    fn write(&self, frame: Frame, old: Stamp, new: &Content) {
        let mut checker = FrameChecker::new(old);
        let mut fault = None;
        for index in 0..FRAME_WORDS {
            let word = new.word(index);
            let found = match self.access {
                Access::Blind => {
                    frame.store(index, word);
                    continue;
                }
                Access::Exchange => frame.swap(index, word),
                Access::Check => {
                    let found = frame.load(index);
                    frame.store(index, word);
                    found
                }
            };
            if fault.is_none() {
                fault = checker
                    .word(index, found)
                    .err()
                    .map(|what| (what, index, found));
            }
        }
        if let Some((what, word, found)) = fault {
            self.fault(Mismatch {
                gfn: old.gfn,
                what,
                word,
                found,
            });
        }
    }

    /// Journals a mismatch; the details only of the first one.
    fn fault(&self, mismatch: Mismatch) {
        if JOURNAL.faults.fetch_add(1, Ordering::AcqRel) == 0 {
            JOURNAL.fault_gfn.store(mismatch.gfn, Ordering::Relaxed);
            JOURNAL
                .fault_word
                .store(mismatch.word as u64, Ordering::Relaxed);
            JOURNAL.fault_found.store(mismatch.found, Ordering::Relaxed);
            JOURNAL.fault_vcpu.store(self.vcpu, Ordering::Relaxed);
            JOURNAL
                .fault_what
                .store(mismatch.what as u64, Ordering::Release);
        }
    }
}

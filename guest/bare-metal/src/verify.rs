//! Verifies the memory of one instant: recomputes from the journal what every frame must hold, and
//! compares.

use crate::frame::{Content, FrameChecker, Kind, TOKEN_WORD, Token, What, check_under_way};
use crate::journal::{JournalView, Unusable};
use crate::mix::Digest;
use crate::plan::Plan;
use crate::{FRAME_BYTES, FRAME_WORDS, Memory};

/// A frame that is not what it was at that instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The frame.
    pub gfn: u64,
    /// The kind of mismatch.
    pub what: What,
    /// The first wrong word of the frame.
    pub word: usize,
    /// The word that was found there.
    pub found: u64,
}

/// The reason why memory did not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is nothing to verify against.
    Unusable(Unusable),
    /// The memory is not that of one instant.
    Mismatch(Mismatch),
}

/// Counts of what was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames that were compared, word by word.
    pub frames: u64,
    /// Number of those frames that hold a churn write.
    pub churned: u64,
    /// Number of links to another vCPU's write that were followed to a frame which still holds that
    /// write.
    pub links: u64,
    /// Writes that were under way.
    pub under_way: u64,
    /// Digest of the frames.
    pub digest: u64,
}

impl Report {
    /// Puts the reports of two lanes together.
    pub const fn join(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            churned: self.churned + other.churned,
            links: self.links + other.links,
            under_way: self.under_way + other.under_way,
            digest: self.digest ^ other.digest,
        }
    }
}

/// Verifies the whole memory of a guest as it was at one instant.
///
/// # Errors
/// [`Failure::Mismatch`] with the first frame that is wrong; [`Failure::Unusable`] if nothing was
/// filled, or a fill was under way.
pub fn instant(memory: &impl Memory) -> Result<Report, Failure> {
    let journal = JournalView::read(memory).map_err(Failure::Unusable)?;
    lane(memory, &journal, 0, 1).map_err(Failure::Mismatch)
}

/// Verifies every `lanes`-th frame, from `lane`, so that several vCPUs can share the work.
///
/// # Errors
/// The first frame of the lane that is wrong.
pub fn lane(
    memory: &impl Memory,
    journal: &JournalView,
    lane: u64,
    lanes: u64,
) -> Result<Report, Mismatch> {
    let verifier = Verifier {
        memory,
        journal,
        plan: Plan::new(journal),
    };
    verifier.check_journal()?;
    let mut report = Report::default();
    let mut index = lane;
    while index < journal.filled {
        report = report.join(verifier.check_frame(index)?);
        index += lanes;
    }
    Ok(report)
}

/// Digest of `count` frames from `first_gfn`, independent of the order in which they are read.
pub fn digest(memory: &impl Memory, first_gfn: u64, count: u64) -> u64 {
    (first_gfn..first_gfn + count).fold(0, |sum, gfn| sum ^ frame_digest(memory, gfn))
}

/// Digest of one frame.
pub fn frame_digest(memory: &impl Memory, gfn: u64) -> u64 {
    let mut digest = Digest::new(gfn);
    for index in 0..FRAME_WORDS {
        digest.add(memory.word(word_gpa(gfn, index)));
    }
    digest.finish()
}

/// The first word of frame `gfn` that is not zero, as a mismatch.
///
/// # Errors
/// [`What::NotZero`].
pub fn zero_frame(memory: &impl Memory, gfn: u64) -> Result<(), Mismatch> {
    for index in 0..FRAME_WORDS {
        let found = memory.word(word_gpa(gfn, index));
        if found != 0 {
            return Err(Mismatch {
                gfn,
                what: What::NotZero,
                word: index,
                found,
            });
        }
    }
    Ok(())
}

const fn word_gpa(gfn: u64, index: usize) -> u64 {
    gfn * FRAME_BYTES + index as u64 * 8
}

struct Verifier<'a, M> {
    memory: &'a M,
    journal: &'a JournalView,
    plan: Plan,
}

impl<M: Memory> Verifier<'_, M> {
    /// A vCPU is between two writes (begun = done) or in the next one.
    fn check_journal(&self) -> Result<(), Mismatch> {
        for (vcpu, progress) in self.journal.progress[..self.plan.vcpus as usize]
            .iter()
            .enumerate()
        {
            if progress.begun != progress.done && !progress.under_way() {
                return Err(Mismatch {
                    gfn: 0,
                    what: What::Journal,
                    word: vcpu,
                    found: progress.begun.0,
                });
            }
        }
        Ok(())
    }

    fn check_frame(&self, index: u64) -> Result<Report, Mismatch> {
        let owner = self.plan.owner(index);
        let progress = self.journal.progress[owner as usize];
        let n = progress.done.seq();
        let gfn = self.plan.first_gfn + index;
        let stamp = self.plan.stamp(index, n, self.journal.writes());
        let mismatch = |what, word| Mismatch {
            gfn,
            what,
            word,
            found: self.word(gfn, word),
        };
        let churned = u64::from(stamp.kind == Kind::Churn);
        if progress.under_way() && self.plan.target(owner, n) == index {
            self.check_link(owner, n, progress.link)
                .map_err(|what| mismatch(what, 5))?;
            let new = Content::new(
                self.plan.churn_stamp(index, n),
                progress.begun,
                progress.link,
            );
            check_under_way(|word| self.word(gfn, word), stamp, &new)
                .map_err(|what| mismatch(what, 0))?;
            let digest = frame_digest(self.memory, gfn);
            return Ok(Report {
                frames: 1,
                churned,
                under_way: 1,
                links: 0,
                digest,
            });
        }
        let mut checker = FrameChecker::new(stamp);
        let mut digest = Digest::new(gfn);
        for word in 0..FRAME_WORDS {
            let found = self.word(gfn, word);
            digest.add(found);
            checker.word(word, found).map_err(|what| Mismatch {
                gfn,
                what,
                word,
                found,
            })?;
        }
        let mut links = 0;
        if stamp.kind == Kind::Churn {
            if stamp.seq == n && checker.token() != progress.done {
                return Err(mismatch(What::Future, TOKEN_WORD));
            }
            links = self
                .check_link(owner, stamp.seq - 1, checker.link())
                .map_err(|what| mismatch(what, 5))?;
        }
        Ok(Report {
            frames: 1,
            churned,
            under_way: 0,
            links,
            digest: digest.finish(),
        })
    }

    /// The `link` that `vcpu`'s write `n` recorded must be something that the other vCPU had really
    /// done by now.
    fn check_link(&self, vcpu: u64, n: u64, link: Token) -> Result<u64, What> {
        let other = self.plan.linked(vcpu, n);
        let progress = self.journal.progress[other as usize];
        if link.seq() > progress.done.seq()
            || (link.seq() == progress.done.seq() && link != progress.done)
        {
            return Err(What::Causal);
        }
        let Some(seen) = link.seq().checked_sub(1) else {
            return Ok(0);
        };
        // Where that write is still the last one to its frame, the frame must hold the very token
        // that was seen.
        let index = self.plan.target(other, seen);
        let stamp = self
            .plan
            .stamp(index, progress.done.seq(), self.journal.writes());
        let is_last = stamp.kind == Kind::Churn && stamp.seq == link.seq();
        let being_overwritten =
            progress.under_way() && self.plan.target(other, progress.done.seq()) == index;
        if !is_last || being_overwritten {
            return Ok(0);
        }
        let found = Token(self.word(self.plan.first_gfn + index, TOKEN_WORD));
        if found == link {
            Ok(1)
        } else {
            Err(What::Causal)
        }
    }

    fn word(&self, gfn: u64, index: usize) -> u64 {
        self.memory.word(word_gpa(gfn, index))
    }
}

#[cfg(test)]
#[path = "verify_test.rs"]
mod verify_test;

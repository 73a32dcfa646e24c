//! The guest's journal, in the first frame of the program: what was asked, and how far each vCPU
//! has come.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::frame::Token;
use crate::order::Pattern;
use crate::{Memory, VCPUS_MAX};

/// GPA of the journal: the linker script puts it first.
pub const JOURNAL_GPA: u64 = 0x10_0000;
/// First word of the journal, "nvvmjrnl".
pub const MAGIC: u64 = u64::from_le_bytes(*b"nvvmjrnl");
/// The most `write` commands that can be remembered between two fills.
pub const WRITES_MAX: usize = 24;

/// Tells if the memory under test can be recomputed from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Nothing was filled yet.
    Empty = 0,
    /// A `fill` or `write` is under way: nothing can be said.
    Busy = 1,
    /// Filled; churn, if any, is journaled.
    Filled = 2,
}

/// Progress of one vCPU's churn, on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Progress {
    /// Link that the write under way records; stored before `begun`.
    pub link: AtomicU64,
    /// Token of the write under way; stored before the frame's first word.
    pub begun: AtomicU64,
    /// Token of the last finished write; stored after the frame's last word. Other vCPUs read it.
    pub done: AtomicU64,
}

/// One `write` command.
#[repr(C)]
#[derive(Debug)]
pub struct WriteEntry {
    /// First frame (index in the filled memory).
    pub start: AtomicU64,
    /// Number of frames.
    pub count: AtomicU64,
    /// Distance of neighbours, in frames.
    pub stride: AtomicU64,
    /// Each vCPU's finished churn writes at that time.
    pub done: [AtomicU64; VCPUS_MAX],
}

/// The journal as it is in guest memory. One frame.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Journal {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Number of vCPUs.
    pub vcpus: AtomicU64,
    /// First frame under test.
    pub first_gfn: AtomicU64,
    /// Frames under test, filled or not.
    pub frames: AtomicU64,
    /// Filled frames, from `first_gfn`.
    pub filled: AtomicU64,
    /// [`Phase`].
    pub phase: AtomicU64,
    /// Seed of the fill.
    pub fill_seed: AtomicU64,
    /// Seed of the churn.
    pub churn_seed: AtomicU64,
    /// [`Pattern::code`] of the churn.
    pub pattern: AtomicU64,
    /// Number of valid entries of `writes`.
    pub writes_len: AtomicU64,
    /// Mismatches that the churn has found.
    pub faults: AtomicU64,
    /// The first of them: `What as u64`, 0 if none.
    pub fault_what: AtomicU64,
    /// Its frame.
    pub fault_gfn: AtomicU64,
    /// Its word.
    pub fault_word: AtomicU64,
    /// The word that was found there.
    pub fault_found: AtomicU64,
    /// The vCPU that found it.
    pub fault_vcpu: AtomicU64,
    /// One per vCPU.
    pub progress: [Progress; VCPUS_MAX],
    /// The `write` commands since the fill.
    pub writes: [WriteEntry; WRITES_MAX],
}

const _: () = assert!(size_of::<Journal>() == crate::FRAME_BYTES as usize);

impl Journal {
    /// An all-zero journal.
    pub const fn new() -> Self {
        Self {
            magic: zero(),
            vcpus: zero(),
            first_gfn: zero(),
            frames: zero(),
            filled: zero(),
            phase: zero(),
            fill_seed: zero(),
            churn_seed: zero(),
            pattern: zero(),
            writes_len: zero(),
            faults: zero(),
            fault_what: zero(),
            fault_gfn: zero(),
            fault_word: zero(),
            fault_found: zero(),
            fault_vcpu: zero(),
            progress: [const {
                Progress {
                    link: zero(),
                    begun: zero(),
                    done: zero(),
                }
            }; VCPUS_MAX],
            writes: [const {
                WriteEntry {
                    start: zero(),
                    count: zero(),
                    stride: zero(),
                    done: [const { zero() }; VCPUS_MAX],
                }
            }; WRITES_MAX],
        }
    }

    /// The token of `vcpu`'s last finished write.
    pub fn done(&self, vcpu: u64) -> Token {
        Token(self.progress[vcpu as usize].done.load(Ordering::Acquire))
    }
}

const fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

/// One vCPU's progress, read at one instant.
#[derive(Debug, Clone, Copy)]
pub struct ProgressView {
    /// Link of the write under way.
    pub link: Token,
    /// Token of the write under way, or of the last one.
    pub begun: Token,
    /// Token of the last finished write.
    pub done: Token,
}

impl ProgressView {
    /// True while a write is under way.
    pub fn under_way(&self) -> bool {
        self.begun.seq() == self.done.seq() + 1
    }
}

/// One `write` command, read.
#[derive(Debug, Clone, Copy)]
pub struct WriteView {
    start: u64,
    count: u64,
    stride: u64,
    done: [u64; VCPUS_MAX],
}

impl WriteView {
    /// A `write` of `count` frames from `start`, `stride` apart, with each vCPU having finished
    /// `done` churn writes.
    pub fn new(start: u64, count: u64, stride: u64, done: [u64; VCPUS_MAX]) -> Self {
        Self {
            start,
            count,
            stride,
            done,
        }
    }

    /// Did this command write frame `index` after the owner's churn write number `churned` (if
    /// any)?
    pub fn overrides(&self, index: u64, owner: u64, churned: Option<u64>) -> bool {
        let later = churned.is_none_or(|k| self.done[owner as usize] > k);
        later && self.hits(index)
    }

    fn hits(&self, index: u64) -> bool {
        let Some(distance) = index.checked_sub(self.start) else {
            return false;
        };
        self.stride > 0 && distance % self.stride == 0 && distance / self.stride < self.count
    }
}

/// The journal, read at one instant through [`Memory`].
#[derive(Debug, Clone)]
pub struct JournalView {
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u64,
    /// First frame under test.
    pub first_gfn: u64,
    /// Frames under test.
    pub frames: u64,
    /// Filled frames.
    pub filled: u64,
    /// Seed of the fill.
    pub fill_seed: u64,
    /// Seed of the churn.
    pub churn_seed: u64,
    /// Order of the churn.
    pub pattern: Pattern,
    /// Mismatches that the churn itself has found.
    pub faults: u64,
    /// One per vCPU.
    pub progress: [ProgressView; VCPUS_MAX],
    writes: [WriteView; WRITES_MAX],
    writes_len: usize,
}

/// The reason why a journal cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// There is no journal, or it holds numbers that cannot be.
    NoJournal,
    /// Nothing was filled.
    Empty,
    /// A `fill` or `write` was under way at that instant.
    Busy,
}

impl JournalView {
    /// Reads the journal out of guest memory.
    ///
    /// # Errors
    /// [`Unusable`], when there is nothing to verify against.
    pub fn read(memory: &impl Memory) -> Result<Self, Unusable> {
        let word = |offset: usize| memory.word(JOURNAL_GPA + offset as u64);
        if word(offset_of!(Journal, magic)) != MAGIC {
            return Err(Unusable::NoJournal);
        }
        match word(offset_of!(Journal, phase)) {
            phase if phase == Phase::Filled as u64 => {}
            phase if phase == Phase::Busy as u64 => return Err(Unusable::Busy),
            _ => return Err(Unusable::Empty),
        }
        let pattern =
            Pattern::from_code(word(offset_of!(Journal, pattern))).ok_or(Unusable::NoJournal)?;
        let view = Self {
            vcpus: word(offset_of!(Journal, vcpus)),
            first_gfn: word(offset_of!(Journal, first_gfn)),
            frames: word(offset_of!(Journal, frames)),
            filled: word(offset_of!(Journal, filled)),
            fill_seed: word(offset_of!(Journal, fill_seed)),
            churn_seed: word(offset_of!(Journal, churn_seed)),
            pattern,
            faults: word(offset_of!(Journal, faults)),
            progress: core::array::from_fn(|i| read_progress(&word, i)),
            writes: core::array::from_fn(|i| read_write(&word, i)),
            writes_len: word(offset_of!(Journal, writes_len)) as usize,
        };
        let counts_fit = (1..=VCPUS_MAX as u64).contains(&view.vcpus)
            && view.filled >= view.vcpus
            && view.filled <= view.frames
            && view.writes_len <= WRITES_MAX;
        if counts_fit {
            Ok(view)
        } else {
            Err(Unusable::NoJournal)
        }
    }

    /// The `write` commands since the fill, oldest first.
    pub fn writes(&self) -> &[WriteView] {
        &self.writes[..self.writes_len.min(WRITES_MAX)]
    }
}

fn read_progress(word: &impl Fn(usize) -> u64, vcpu: usize) -> ProgressView {
    let at = offset_of!(Journal, progress) + vcpu * size_of::<Progress>();
    ProgressView {
        link: Token(word(at + offset_of!(Progress, link))),
        begun: Token(word(at + offset_of!(Progress, begun))),
        done: Token(word(at + offset_of!(Progress, done))),
    }
}

fn read_write(word: &impl Fn(usize) -> u64, entry: usize) -> WriteView {
    let at = offset_of!(Journal, writes) + entry * size_of::<WriteEntry>();
    WriteView {
        start: word(at + offset_of!(WriteEntry, start)),
        count: word(at + offset_of!(WriteEntry, count)),
        stride: word(at + offset_of!(WriteEntry, stride)),
        done: core::array::from_fn(|i| word(at + offset_of!(WriteEntry, done) + i * 8)),
    }
}

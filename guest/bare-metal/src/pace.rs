//! `pace`: memory written page by page for ever, so that a guest can tell how long it was kept from
//! that.
//!
//! Each vCPU walks its lane, pass after pass. A step writes one word of one frame, or reads it.
//! Between two steps the vCPU looks at its time stamp counter. A difference that is larger than
//! others is a *gap*: the vCPU stood still, or waited for memory.
//!
//! All of this is in guest memory at [`PACE_GPA`], so the host can read it while the guest runs,
//! and finds it in a snapshot as it was at that instant.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::mix::{SPREAD, mix};
use crate::order::{Order, Pattern};
use crate::verify::Mismatch;
use crate::{FRAME_BYTES, Memory, VCPUS_MAX, frame::What};

/// GPA of [`Pace`]: the linker script puts it behind the journal.
pub const PACE_GPA: u64 = 0x10_1000;
/// First word of [`Pace`], "nvvmpace".
pub const MAGIC: u64 = u64::from_le_bytes(*b"nvvmpace");
/// Entries of the log of vCPU 0.
pub const LOG_LEN: usize = 32768;
/// Entries that a pass of vCPU 0 takes at most.
const PASS_ENTRIES: u64 = 2048;
/// Steps of an entry, at least: the log of a guest with little memory would last for some
/// milliseconds only.
const GRANULE_MIN: u64 = 32;
/// The last gaps that are kept.
pub const GAPS_KEPT: usize = 32;
/// Seed of the order that looks random.
const SEED: u64 = 0x7061_6365;

/// The way in which `pace` walks: an order, and an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// True for an order that looks random, another one in each pass.
    pub at_random: bool,
    /// True if frames are written.
    pub writes: bool,
}

impl Walk {
    /// The walk's number.
    pub const fn code(self) -> u64 {
        self.at_random as u64 | (self.writes as u64) << 1
    }

    /// The walk with this number.
    pub const fn from_code(code: u64) -> Self {
        Self {
            at_random: code & 1 != 0,
            writes: code & 2 != 0,
        }
    }
}

/// Steps of one vCPU, on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Steps {
    /// Steps that were done.
    pub done: AtomicU64,
    /// Time stamp after the last of them.
    pub tsc: AtomicU64,
    /// Duration of the last whole pass.
    pub pass: AtomicU64,
    /// Largest gap since the last report.
    pub largest: AtomicU64,
    /// Gaps above the limit since the last report.
    pub over: AtomicU64,
}

/// One gap above the limit.
#[repr(C)]
#[derive(Debug)]
pub struct Gap {
    /// Time stamp at its end.
    pub tsc: AtomicU64,
    /// Its duration.
    pub length: AtomicU64,
}

/// The state of `pace`. One frame.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Pace {
    /// [`MAGIC`] while there are steps to tell of.
    pub magic: AtomicU64,
    /// Number of vCPUs.
    pub vcpus: AtomicU64,
    /// First frame.
    pub first_gfn: AtomicU64,
    /// Number of frames.
    pub frames: AtomicU64,
    /// [`Walk::code`].
    pub walk: AtomicU64,
    /// Gaps of more than so many time stamp counts are kept and counted.
    pub limit: AtomicU64,
    /// Steps of vCPU 0 for each entry of the log.
    pub granule: AtomicU64,
    /// GPA of the log, [`LOG_LEN`] words. Word `n` modulo the length is the time stamp after step
    /// number `n * granule`, counted from 1.
    pub log_gpa: AtomicU64,
    /// One per vCPU.
    pub steps: [Steps; VCPUS_MAX],
    /// Gaps above the limit that were kept; the next one goes to this place, modulo the length.
    pub gaps_count: AtomicU64,
    /// The last of them.
    pub gaps: [Gap; GAPS_KEPT],
}

const _: () = assert!(size_of::<Pace>() == FRAME_BYTES as usize);

impl Pace {
    /// An all-zero state.
    pub const fn new() -> Self {
        Self {
            magic: zero(),
            vcpus: zero(),
            first_gfn: zero(),
            frames: zero(),
            walk: zero(),
            limit: zero(),
            granule: zero(),
            log_gpa: zero(),
            steps: [const {
                Steps {
                    done: zero(),
                    tsc: zero(),
                    pass: zero(),
                    largest: zero(),
                    over: zero(),
                }
            }; VCPUS_MAX],
            gaps_count: zero(),
            gaps: [const {
                Gap {
                    tsc: zero(),
                    length: zero(),
                }
            }; GAPS_KEPT],
        }
    }

    /// Forgets all steps and gaps. No vCPU may walk meanwhile.
    pub fn reset(&self) {
        for steps in &self.steps {
            for word in [
                &steps.done,
                &steps.tsc,
                &steps.pass,
                &steps.largest,
                &steps.over,
            ] {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.gaps_count.store(0, Ordering::Relaxed);
    }

    /// Keeps a gap above the limit.
    pub fn keep(&self, tsc: u64, length: u64) {
        let place = self.gaps_count.fetch_add(1, Ordering::Relaxed);
        let gap = &self.gaps[place as usize % GAPS_KEPT];
        gap.length.store(length, Ordering::Relaxed);
        gap.tsc.store(tsc, Ordering::Release);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

const fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

/// Steps for each entry of the log, where a pass of vCPU 0 has `len` steps: a power of two.
pub const fn granule(len: u64) -> u64 {
    let granule = len.div_ceil(PASS_ENTRIES).next_power_of_two();
    if granule < GRANULE_MIN {
        GRANULE_MIN
    } else {
        granule
    }
}

/// The frames of one vCPU, and their order.
#[derive(Debug, Clone, Copy)]
pub struct LaneWalk {
    order: Order,
    vcpu: u64,
    vcpus: u64,
    first_gfn: u64,
    /// Steps of a pass.
    pub len: u64,
}

impl LaneWalk {
    /// Every `vcpus`-th of `frames` frames from `first_gfn`, from number `vcpu` on. Each vCPU must
    /// have one.
    pub fn new(walk: Walk, (vcpu, vcpus): (u64, u64), first_gfn: u64, frames: u64) -> Self {
        let len = frames.saturating_sub(vcpu).div_ceil(vcpus).max(1);
        let pattern = match walk.at_random {
            true => Pattern::Rand,
            false => Pattern::Seq,
        };
        Self {
            order: Order::new(pattern, SEED ^ vcpu, len, vcpus),
            vcpu,
            vcpus,
            first_gfn,
            len,
        }
    }

    /// The frame of step number `n`, from 0.
    pub fn gfn(&self, n: u64) -> u64 {
        self.first_gfn + self.order.at(n) * self.vcpus + self.vcpu
    }
}

/// Word 0 of frame `gfn` after it was written in pass number `pass`.
#[inline]
pub const fn word(gfn: u64, pass: u64) -> u64 {
    mix(SPREAD ^ gfn ^ (pass << 40))
}

/// Verifies the frames of one vCPU: each must have been written last in this pass or in the one
/// before, as the number of its steps says. Returns the number of frames that were compared.
///
/// # Errors
/// The first frame that holds something else; the state contradicts itself, or nothing was written.
pub fn lane(memory: &impl Memory, vcpu: u64) -> Result<u64, Mismatch> {
    let at = |offset: usize| memory.word(PACE_GPA + offset as u64);
    let walk = Walk::from_code(at(offset_of!(Pace, walk)));
    let vcpus = at(offset_of!(Pace, vcpus));
    let (first_gfn, frames) = (
        at(offset_of!(Pace, first_gfn)),
        at(offset_of!(Pace, frames)),
    );
    let steps = offset_of!(Pace, steps) + vcpu as usize * size_of::<Steps>();
    let done = at(steps + offset_of!(Steps, done));
    let usable = at(offset_of!(Pace, magic)) == MAGIC
        && walk.writes
        && (1..=VCPUS_MAX as u64).contains(&vcpus)
        && vcpu < vcpus
        && frames >= vcpus;
    if !usable {
        return Err(Mismatch {
            gfn: 0,
            what: What::Journal,
            word: 0,
            found: at(offset_of!(Pace, magic)),
        });
    }
    let lane = LaneWalk::new(walk, (vcpu, vcpus), first_gfn, frames);
    let (pass, position) = (done / lane.len, done % lane.len);
    let mut compared = 0;
    for n in 0..lane.len {
        let gfn = lane.gfn(pass * lane.len + n);
        let found = memory.word(gfn * FRAME_BYTES);
        let is_of = |pass| found == word(gfn, pass);
        // A step that was under way may be there or not. Before the first write anything is.
        let what = match n {
            n if n < position && is_of(pass) => None,
            n if n == position && is_of(pass) => None,
            n if n >= position && pass == 0 => continue,
            n if n >= position && is_of(pass - 1) => None,
            _ if pass > 0 && is_of(pass - 1) => Some(What::Stale),
            n if n > position && is_of(pass) => Some(What::Future),
            _ => Some(What::Torn),
        };
        if let Some(what) = what {
            return Err(Mismatch {
                gfn,
                what,
                word: 0,
                found,
            });
        }
        compared += 1;
    }
    Ok(compared)
}

#[cfg(test)]
#[path = "pace_test.rs"]
mod pace_test;

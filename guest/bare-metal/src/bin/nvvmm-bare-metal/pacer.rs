//! One vCPU's walk through its lane for ever (`pace`).

use core::sync::atomic::Ordering;

use nvvmm_bare_metal::pace::{self, LOG_LEN, LaneWalk, Steps, Walk};

use crate::jobs::Lane;
use crate::sys::{self, LOG, PACE, Ram};

/// A vCPU that walks.
pub struct Pacer {
    ram: Ram,
    lane: LaneWalk,
    writes: bool,
    /// vCPU 0 writes the log.
    logs: bool,
    steps: &'static Steps,
    limit: u64,
    granule: u64,
    done: u64,
    /// Place in the pass, its number, and the time stamp at its beginning.
    position: u64,
    pass: u64,
    pass_began: u64,
    last: u64,
}

impl Pacer {
    /// A walk as the state says it.
    pub fn new(lane: &Lane) -> Self {
        let word = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
        let walk = Walk::from_code(word(&PACE.walk));
        let vcpus = (lane.vcpu, lane.vcpus);
        let now = sys::tsc();
        Self {
            ram: lane.ram,
            lane: LaneWalk::new(walk, vcpus, word(&PACE.first_gfn), word(&PACE.frames)),
            writes: walk.writes,
            logs: lane.vcpu == 0,
            steps: &PACE.steps[lane.vcpu as usize],
            limit: word(&PACE.limit),
            granule: word(&PACE.granule).max(1),
            done: 0,
            position: 0,
            pass: 0,
            pass_began: now,
            last: now,
        }
    }

    /// Leaves out the time since the last step: it was not memory that took it.
    pub fn skip(&mut self) {
        self.last = sys::tsc();
    }

    /// Writes or reads the next frame.
    pub fn step(&mut self) {
        let gfn = self.lane.gfn(self.done);
        let frame = self.ram.frame(gfn);
        if self.writes {
            frame.store(0, pace::word(gfn, self.pass));
        } else {
            core::hint::black_box(frame.load(0));
        }
        let now = sys::tsc();
        // A counter that went back, as in a restore, is no gap.
        let gap = now.saturating_sub(self.last);
        self.last = now;
        self.done += 1;
        if gap > self.steps.largest.load(Ordering::Relaxed) {
            self.steps.largest.store(gap, Ordering::Relaxed);
        }
        if gap > self.limit {
            self.steps.over.fetch_add(1, Ordering::Relaxed);
            PACE.keep(now, gap);
        }
        self.position += 1;
        if self.position == self.lane.len {
            let took = now.saturating_sub(self.pass_began);
            self.steps.pass.store(took, Ordering::Relaxed);
            (self.position, self.pass, self.pass_began) = (0, self.pass + 1, now);
        }
        if self.logs && self.done & (self.granule - 1) == 0 {
            let place = self.done / self.granule;
            LOG[place as usize % LOG_LEN].store(now, Ordering::Relaxed);
        }
        self.steps.tsc.store(now, Ordering::Relaxed);
        self.steps.done.store(self.done, Ordering::Release);
    }
}

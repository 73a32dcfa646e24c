//! The part of one vCPU in a job: its lane, every n-th frame.

use core::sync::atomic::Ordering;

use nvvmm_bare_metal::command::{SPARSE, Touch};
use nvvmm_bare_metal::frame::{Content, Stamp, Token, What};
use nvvmm_bare_metal::journal::JournalView;
use nvvmm_bare_metal::order::Pattern;
use nvvmm_bare_metal::pace;
use nvvmm_bare_metal::plan::Plan;
use nvvmm_bare_metal::verify::{self, Mismatch, Report};
use nvvmm_bare_metal::{FRAME_BYTES, FRAME_WORDS};

use crate::churn::Churn;
use crate::pacer::Pacer;
use crate::sys::{JOURNAL, Ram};
use crate::vcpu_barrier::{self, Job};

/// Seed of the order of `touch rand`.
const TOUCH_SEED: u64 = 0x746f_7563_6820;

/// One vCPU and the memory under test.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// This vCPU.
    pub vcpu: u64,
    /// All vCPUs.
    pub vcpus: u64,
    /// Guest RAM.
    pub ram: Ram,
    /// First frame under test.
    pub first_gfn: u64,
    /// Frames under test.
    pub frames: u64,
}

impl Lane {
    /// The lane of `vcpu` in all memory that the boot block calls free.
    pub const fn new(vcpu: u64, vcpus: u64, ram: Ram) -> Self {
        let first_gfn = ram.free_start.div_ceil(FRAME_BYTES);
        let frames = (ram.memory_bytes / FRAME_BYTES).saturating_sub(first_gfn);
        Self {
            vcpu,
            vcpus,
            ram,
            first_gfn,
            frames,
        }
    }

    /// Does this vCPU's part of `job`.
    pub fn run(&self, job: Job) {
        match job {
            Job::Fill { frames } => self.fill(frames),
            Job::Touch { frames, touch } => self.touch(frames, touch),
            Job::Write { number } => self.write(number),
            Job::Digest { frames } => {
                let digest = self
                    .gfns(0, frames)
                    .fold(0, |sum, gfn| sum ^ verify::frame_digest(&self.ram, gfn));
                vcpu_barrier::leave(
                    self.vcpu,
                    Ok(Report {
                        digest,
                        ..Report::default()
                    }),
                );
            }
            Job::Check => vcpu_barrier::leave(self.vcpu, self.check()),
            Job::CheckUnfilled => vcpu_barrier::leave(self.vcpu, self.check_unfilled()),
            Job::Churn(access) => {
                let Ok(journal) = JournalView::read(&self.ram) else {
                    return;
                };
                let mut churn = Churn::new(self.vcpu, self.ram, access, journal);
                while !vcpu_barrier::stopped() {
                    churn.step();
                }
            }
            Job::Pace => {
                let mut pacer = Pacer::new(self);
                while !vcpu_barrier::stopped() {
                    pacer.step();
                }
            }
            Job::CheckPace => {
                let compared = pace::lane(&self.ram, self.vcpu).map(|frames| Report {
                    frames,
                    ..Report::default()
                });
                vcpu_barrier::leave(self.vcpu, compared);
            }
        }
    }

    /// This vCPU's frames among those with index `from..to`.
    fn gfns(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + use<> {
        let first = from + (self.vcpu + self.vcpus - from % self.vcpus) % self.vcpus;
        let first_gfn = self.first_gfn;
        (first..to)
            .step_by(self.vcpus as usize)
            .map(move |index| first_gfn + index)
    }

    fn fill(&self, frames: u64) {
        let seed = JOURNAL.fill_seed.load(Ordering::Relaxed);
        let plan = Plan::from_parts(
            (self.vcpus, self.first_gfn, frames),
            (seed, 0, Pattern::Seq),
        );
        for gfn in self.gfns(0, frames) {
            self.put(plan.fill_stamp(gfn - self.first_gfn));
        }
    }

    fn write(&self, number: u64) {
        let entry = &JOURNAL.writes[(number - 1) as usize];
        let [start, count, stride] =
            [&entry.start, &entry.count, &entry.stride].map(|word| word.load(Ordering::Relaxed));
        let parts = [&JOURNAL.filled, &JOURNAL.fill_seed].map(|word| word.load(Ordering::Relaxed));
        let plan = Plan::from_parts(
            (self.vcpus, self.first_gfn, parts[0]),
            (parts[1], 0, Pattern::Seq),
        );
        for index in (0..count).map(|i| start + i * stride) {
            if plan.owner(index) == self.vcpu {
                self.put(plan.write_stamp(index, number));
            }
        }
    }

    fn put(&self, stamp: Stamp) {
        let content = Content::new(stamp, Token::new(stamp.seq, 0), Token(0));
        let frame = self.ram.frame(stamp.gfn);
        for index in 0..FRAME_WORDS {
            frame.store(index, content.word(index));
        }
    }

    fn touch(&self, frames: u64, touch: Touch) {
        let mut touched = 0;
        let mut each = |gfn| {
            let frame = self.ram.frame(gfn);
            match touch {
                Touch::Read => _ = frame.load(0),
                _ => frame.dirty(),
            }
            touched += 1;
        };
        match touch {
            Touch::Read | Touch::Dirty => self.gfns(0, frames).for_each(&mut each),
            Touch::DirtyEven | Touch::DirtyOdd => {
                let odd = u64::from(touch == Touch::DirtyOdd);
                self.gfns(0, frames)
                    .filter(|gfn| (gfn - self.first_gfn) % 2 == odd)
                    .for_each(&mut each);
            }
            Touch::DirtyAtRandom | Touch::DirtySparse => {
                let own = self.gfns(0, frames).count() as u64;
                let count = match touch {
                    Touch::DirtySparse => own.div_ceil(SPARSE),
                    _ => own,
                };
                let plan = Plan::from_parts(
                    (self.vcpus, self.first_gfn, frames),
                    (0, TOUCH_SEED, Pattern::Rand),
                );
                (0..count)
                    .map(|n| self.first_gfn + plan.target(self.vcpu, n))
                    .for_each(&mut each);
            }
        }
        vcpu_barrier::leave(
            self.vcpu,
            Ok(Report {
                frames: touched,
                ..Report::default()
            }),
        );
    }

    fn check(&self) -> Result<Report, Mismatch> {
        let broken = Mismatch {
            gfn: 0,
            what: What::Journal,
            word: 0,
            found: 0,
        };
        let journal = JournalView::read(&self.ram).map_err(|_| broken)?;
        let expected = (self.vcpus, self.first_gfn, self.frames);
        if (journal.vcpus, journal.first_gfn, journal.frames) != expected {
            return Err(broken);
        }
        verify::lane(&self.ram, &journal, self.vcpu, self.vcpus)
    }

    fn check_unfilled(&self) -> Result<Report, Mismatch> {
        let mut report = Report::default();
        for gfn in self.gfns(JOURNAL.filled.load(Ordering::Relaxed), self.frames) {
            verify::zero_frame(&self.ram, gfn)?;
            report.frames += 1;
        }
        Ok(report)
    }
}

//! All vCPUs work on one job together: vCPU 0 hands it out, each does its lane, vCPU 0 waits for
//! all.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nvvmm_bare_metal::VCPUS_MAX;
use nvvmm_bare_metal::command::{Access, Touch};
use nvvmm_bare_metal::frame::What;
use nvvmm_bare_metal::verify::{Mismatch, Report};

/// A job that every vCPU does with its lane.
#[derive(Debug, Clone, Copy)]
pub enum Job {
    /// Fill the first `frames` frames.
    Fill { frames: u64 },
    /// Read or dirty the first `frames` frames.
    Touch { frames: u64, touch: Touch },
    /// The `write` command number `number` (in the journal).
    Write { number: u64 },
    /// Digest of the first `frames` frames.
    Digest { frames: u64 },
    /// Verify the filled frames.
    Check,
    /// Verify that the frames beyond the fill are zero.
    CheckUnfilled,
    /// Churn until `stop`.
    Churn(Access),
    /// Walk until `stop`.
    Pace,
    /// Verify what `pace` has written.
    CheckPace,
}

impl Job {
    const fn encode(self) -> [u64; 3] {
        match self {
            Self::Fill { frames } => [0, frames, 0],
            Self::Touch { frames, touch } => [1, frames, touch as u64],
            Self::Write { number } => [2, number, 0],
            Self::Digest { frames } => [3, frames, 0],
            Self::Check => [4, 0, 0],
            Self::CheckUnfilled => [5, 0, 0],
            Self::Churn(access) => [6, access as u64, 0],
            Self::Pace => [7, 0, 0],
            Self::CheckPace => [8, 0, 0],
        }
    }

    fn decode(words: [u64; 3]) -> Self {
        match words {
            [0, frames, _] => Self::Fill { frames },
            [1, frames, touch] => Self::Touch {
                frames,
                touch: Touch::from_code(touch).unwrap_or(Touch::Read),
            },
            [2, number, _] => Self::Write { number },
            [3, frames, _] => Self::Digest { frames },
            [4, ..] => Self::Check,
            [5, ..] => Self::CheckUnfilled,
            [7, ..] => Self::Pace,
            [8, ..] => Self::CheckPace,
            [_, access, _] => Self::Churn(Access::from_code(access).unwrap_or(Access::Check)),
        }
    }
}

static ROUND: AtomicU64 = AtomicU64::new(0);
static JOB: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static STOP: AtomicBool = AtomicBool::new(false);
static FINISHED: [AtomicU64; VCPUS_MAX] = [const { AtomicU64::new(0) }; VCPUS_MAX];
static RESULTS: [[AtomicU64; 5]; VCPUS_MAX] =
    [const { [const { AtomicU64::new(0) }; 5] }; VCPUS_MAX];

/// vCPU 0: the others begin `job`.
pub fn begin(job: Job) {
    for (place, word) in JOB.iter().zip(job.encode()) {
        place.store(word, Ordering::Relaxed);
    }
    STOP.store(false, Ordering::Relaxed);
    ROUND.fetch_add(1, Ordering::Release);
}

/// vCPU 0: the others end their churn or walk.
pub fn stop() {
    STOP.store(true, Ordering::Release);
}

/// True after a call of `stop`.
pub fn stopped() -> bool {
    STOP.load(Ordering::Acquire)
}

/// vCPU 0: waits until all others have finished.
pub fn join(vcpus: u64) {
    let round = ROUND.load(Ordering::Relaxed);
    for finished in &FINISHED[1..vcpus as usize] {
        while finished.load(Ordering::Acquire) != round {
            core::hint::spin_loop();
        }
    }
}

/// The other vCPUs: do what is handed out, for ever.
pub fn work(vcpu: u64, mut run: impl FnMut(Job)) -> ! {
    let mut last = 0;
    loop {
        let round = ROUND.load(Ordering::Acquire);
        if round == last {
            core::hint::spin_loop();
            continue;
        }
        last = round;
        run(Job::decode(core::array::from_fn(|i| {
            JOB[i].load(Ordering::Relaxed)
        })));
        FINISHED[vcpu as usize].store(round, Ordering::Release);
    }
}

/// Leaves this vCPU's result for vCPU 0.
pub fn leave(vcpu: u64, result: Result<Report, Mismatch>) {
    let words = match result {
        Ok(report) => [
            0,
            report.frames,
            report.churned,
            report.links,
            report.digest,
        ],
        Err(mismatch) => [
            mismatch.what as u64,
            mismatch.gfn,
            mismatch.word as u64,
            mismatch.found,
            0,
        ],
    };
    for (place, word) in RESULTS[vcpu as usize].iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
}

/// vCPU 0, after `join`: all results together.
pub fn collect(vcpus: u64) -> Result<Report, Mismatch> {
    RESULTS[..vcpus as usize]
        .iter()
        .try_fold(Report::default(), |sum, result| {
            let [what, a, b, c, d] = core::array::from_fn(|i| result[i].load(Ordering::Relaxed));
            match What::from_code(what) {
                Some(what) => Err(Mismatch {
                    gfn: a,
                    what,
                    word: b as usize,
                    found: c,
                }),
                None => Ok(sum.join(Report {
                    frames: a,
                    churned: b,
                    links: c,
                    digest: d,
                    under_way: 0,
                })),
            }
        })
}

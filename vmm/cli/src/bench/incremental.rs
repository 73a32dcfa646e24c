//! Checkpoints after the first: what they cost depends on what was written since the one before.

use nvvmm::{VmError, checkpoint::report::SnapshotReport};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    guest::Guest,
    observed::Observations,
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Target},
    statistics::{Spread, ratios},
};
use crate::human_units;

const SEED: u64 = 11;
/// Parts of the touched memory that are written between two checkpoints, as divisors: 10%, 1%,
/// 0.1%.
const DIVISORS: [u64; 3] = [1000, 100, 10];
/// Places written that lie apart from each other.
const CLUSTERS: u64 = 1000;
const FRAMES_PER_MIB: u64 = 256;

/// The experiment while it is done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    size: u64,
    /// Measurements, by memory written in MiB.
    pauses: Observations,
    clusters: Observations,
    first: Vec<(String, f64)>,
    save_us: Vec<f64>,
    frames_verified: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a restored guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let mut measuring = Measuring {
        pools,
        size: plan.sizes.last().copied().unwrap_or_default(),
        pauses: Observations::default(),
        clusters: Observations::default(),
        first: Vec::new(),
        save_us: Vec::new(),
        frames_verified: 0,
    };
    for turn in 1..=plan.repeat {
        for pool in pools {
            progress.step(&format!(
                "incremental: {} touched on {}, {turn} of {}",
                human_units::size(measuring.size),
                pool.medium,
                plan.repeat
            ))?;
            measuring.one_turn(pool, turn, progress)?;
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    fn one_turn(
        &mut self,
        pool: &BenchPool,
        turn: usize,
        progress: &Progress,
    ) -> Result<(), VmError> {
        let mut guest = pool.boot(self.size)?;
        guest.fill(self.size, SEED)?;
        let first = guest.snapshot("first")?;
        self.first.push((pool.medium.clone(), first.pause_us));
        self.pauses
            .add(&pool.medium, mib(self.size), first.pause_us, &first.phases);
        let mut before = "first".to_owned();
        let mut next = |guest: &Guest, name: String| -> Result<SnapshotReport, VmError> {
            progress.go_on()?;
            let report = guest.snapshot(&name)?;
            pool.remove(&std::mem::replace(&mut before, name))?;
            Ok(report)
        };
        for written in self.written() {
            guest.ask(&format!("touch {written}"))?;
            let report = next(&guest, format!("after-{written}"))?;
            self.note_save(&report);
            self.pauses.add(
                &pool.medium,
                written as f64,
                report.pause_us,
                &report.phases,
            );
        }
        let frames = mib_frames(self.size);
        let count = CLUSTERS.min(frames / 32);
        guest.ask(&format!(
            "write {} {count} {}",
            turn as u64 % 16,
            frames / (count + 1)
        ))?;
        let report = next(&guest, "clusters".into())?;
        self.note_save(&report);
        self.clusters
            .add(&pool.medium, count as f64, report.pause_us, &report.phases);
        drop(guest);
        let mut restored = pool.restore("clusters", RestoreKind::Lazy)?;
        self.frames_verified += restored.verify()?;
        drop(restored);
        pool.remove("clusters")
    }

    /// MiB written before each checkpoint, from little to much.
    fn written(&self) -> Vec<u64> {
        let mut written: Vec<u64> = DIVISORS
            .iter()
            .map(|divisor| ((self.size >> 20) / divisor).max(1))
            .collect();
        written.dedup();
        written
    }

    fn note_save(&mut self, report: &SnapshotReport) {
        let saving = report
            .phases
            .iter()
            .filter(|timed| timed.phase.starts_with("Save"));
        self.save_us.push(saving.map(|timed| timed.us).sum());
    }

    fn present(self) -> Experiment {
        let touched = human_units::size(self.size);
        let by_mib = |mib: f64| human_units::size((mib as u64) << 20);
        let mut tables = vec![
            self.pauses.times(
                &format!(
                    "Pause of a checkpoint, {touched} touched (the last row is the first \
                     checkpoint)"
                ),
                "written since the last",
                by_mib,
            ),
            self.clusters.times(
                "Pause of a checkpoint after single frames were written that lie apart from each \
                 other",
                "frames written",
                |count| format!("{count:.0}"),
            ),
        ];
        for written in self
            .written()
            .into_iter()
            .filter(|mib| *mib == ((self.size >> 20) / 100).max(1))
        {
            tables.push(self.pauses.phases(
                &format!(
                    "Where it goes, {} written (medians)",
                    by_mib(written as f64)
                ),
                written as f64,
            ));
        }
        for count in self.clusters.places() {
            tables.push(self.clusters.phases(
                &format!("Where it goes, {count:.0} frames written (medians)"),
                count,
            ));
        }
        Experiment {
            name: "incremental".into(),
            title: "Checkpoints after the first".into(),
            about: format!(
                "A guest with {touched} touched is checkpointed, writes to part of that, and is \
                 checkpointed again, and so on; checkpoints before \
                 the last are removed. What is written lies in a row, or in single frames as far \
                 from each other as possible. After the \
                 last one the guest ends, is restored, and compares all that it had written."
            ),
            charts: vec![Chart {
                stacks: Vec::new(),
                file: "incremental".into(),
                title: "Pause of a checkpoint".into(),
                x: Axis::logarithmic("memory written since the last checkpoint (MiB)", 2.0),
                y: Axis::logarithmic("pause (ms)", 10.0),
                series: self.pauses.curves(),
            }],
            targets: self.targets(),
            tables,
            limits: vec![
                "Memory is written, then the checkpoint is taken: a guest that goes on writing \
                 meanwhile is another experiment."
                    .into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let one_percent = ((self.size >> 20) / 100).max(1) as f64;
        for pool in self.pools.iter().filter(|pool| !pool.has_huge_pages()) {
            let of_place = self
                .first
                .iter()
                .filter(|(medium, _)| *medium == pool.medium);
            let first: Vec<f64> = of_place.map(|(_, us)| *us).collect();
            let later = self.pauses.times_us(&pool.medium, one_percent);
            targets.extend(Spread::of(&ratios(&first, &later)).map(|measured| Target {
                what: format!(
                    "{}: pause of the first checkpoint / of one after 1% was written",
                    pool.medium
                ),
                wanted: Bound::AtLeast(50.0),
                measured,
                unit: "x".into(),
            }));
            for count in self.clusters.places() {
                let ms: Vec<f64> = self
                    .clusters
                    .times_us(&pool.medium, count)
                    .iter()
                    .map(|us| us / 1000.0)
                    .collect();
                targets.extend(Spread::of(&ms).map(|measured| Target {
                    what: format!(
                        "{}: pause after {count:.0} single frames were written",
                        pool.medium
                    ),
                    wanted: Bound::AtMost(2.0),
                    measured,
                    unit: " ms".into(),
                }));
            }
        }
        targets.extend(Spread::of(&self.save_us).map(|measured| Target {
            what: "saving vCPUs and devices".into(),
            wanted: Bound::AtMost(300.0),
            measured,
            unit: " µs".into(),
        }));
        targets
    }
}

fn mib(size: u64) -> f64 {
    (size >> 20) as f64
}

fn mib_frames(size: u64) -> u64 {
    (size >> 20) * FRAMES_PER_MIB
}

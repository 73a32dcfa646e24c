//! Cost of copying more than one frame for a write fault, and frames copied in vain, for each way
//! to choose.

use nvvmm::{
    VmError,
    cow::{CopyPolicy, Techniques},
};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    guest::Guest,
    observed::time_text,
    plan::Plan,
    progress::Progress,
    report::{Axis, Chart, Experiment, Series, Table},
    statistics::Spread,
    writes::Writes,
};
use crate::human_units;

const SEED: u64 = 31;
/// Memory that is written, at most.
const SIZE_MAX: u64 = 128 << 20;
/// Frames that each fault copies.
const FIXED: [u32; 5] = [1, 4, 16, 64, 512];
/// Pattern of the guest's writes, and the argument of its command.
const PATTERNS: [(&str, &str); 3] = [
    ("one frame of 100, at random", "sparse"),
    ("every frame, in a row", "seq"),
    ("every frame, at random", "rand"),
];

/// A way to choose.
#[derive(Clone, Debug)]
struct Choice {
    name: String,
    policy: CopyPolicy,
}

/// Cost of a pattern.
#[derive(Clone, Debug)]
struct Seen {
    medium: String,
    choice: String,
    pattern: usize,
    /// Extra time of a written frame, in microseconds, compared with when nothing is to be
    /// copied.
    us: f64,
    faults: f64,
    amplification: f64,
}

/// The experiment while it is done.
struct Measuring<'p> {
    pools: Vec<&'p BenchPool>,
    size: u64,
    choices: Vec<Choice>,
    seen: Vec<Seen>,
    frames_verified: u64,
}

/// Measures, on pools where the engine can choose.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let usual = CopyPolicy::default();
    let mut choices: Vec<Choice> = FIXED
        .map(|frames| Choice {
            name: frames.to_string(),
            policy: CopyPolicy::fixed(frames),
        })
        .to_vec();
    choices.push(Choice {
        name: format!("{}, growing (usual)", usual.cluster_frames),
        policy: usual,
    });
    let mut measuring = Measuring {
        pools: pools.iter().filter(|pool| pool.copies_clusters()).collect(),
        size: plan.sizes.last().copied().unwrap_or_default().min(SIZE_MAX),
        choices,
        seen: Vec::new(),
        frames_verified: 0,
    };
    for turn in 1..=plan.repeat {
        for pool in measuring.pools.clone() {
            progress.step(&format!(
                "clusters: on {}, {turn} of {}",
                pool.medium, plan.repeat
            ))?;
            for choice in measuring.choices.clone() {
                progress.go_on()?;
                measuring.one_guest(pool, &choice)?;
            }
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    fn one_guest(&mut self, pool: &BenchPool, choice: &Choice) -> Result<(), VmError> {
        let mut guest = pool.boot_with(
            Techniques {
                copy_policy: choice.policy,
                // It would make some of the copies that are measured before they are.
                copy_hot: false,
                ..Techniques::default()
            },
            self.size,
        )?;
        guest.fill(self.size, SEED)?;
        for (index, (_, word)) in PATTERNS.into_iter().enumerate() {
            guest.snapshot(word)?;
            let (us, writes) = self.one_pattern(pool, &mut guest, word)?;
            if index > 0 {
                pool.remove(PATTERNS[index - 1].1)?;
            }
            self.seen.push(Seen {
                medium: pool.medium.clone(),
                choice: choice.name.clone(),
                pattern: index,
                us,
                faults: writes.faults_each(),
                amplification: writes.amplification(),
            });
        }
        self.frames_verified += guest.verify()?;
        drop(guest);
        let last = PATTERNS[PATTERNS.len() - 1].1;
        self.frames_verified += pool.restore(last, RestoreKind::Lazy)?.verify()?;
        pool.remove(last)
    }

    /// Writes after a checkpoint, less the same writes once more, when nothing is copied.
    fn one_pattern(
        &self,
        pool: &BenchPool,
        guest: &mut Guest,
        pattern: &str,
    ) -> Result<(f64, Writes), VmError> {
        let mib = self.size >> 20;
        // All is mapped for reading, so that the write is all that is measured.
        guest.ask(&format!("touch {mib} read"))?;
        pool.warm(self.size)?;
        let command = format!("touch {mib} {pattern}");
        let first = Writes::of(guest, &command)?;
        let plain = Writes::of(guest, &command)?;
        Ok((first.us_each() - plain.us_each(), first))
    }

    fn of(
        &self,
        pool: &BenchPool,
        choice: &Choice,
        pattern: usize,
        figure: fn(&Seen) -> f64,
    ) -> Vec<f64> {
        let those = self.seen.iter().filter(|seen| {
            seen.medium == pool.medium && seen.choice == choice.name && seen.pattern == pattern
        });
        those.map(figure).collect()
    }

    fn table(&self, pattern: usize) -> Table {
        let mut columns = vec!["frames for a fault".to_owned()];
        for pool in &self.pools {
            columns.extend(
                ["time", "copied / written", "faults / written"]
                    .map(|what| format!("{}: {what}", pool.medium)),
            );
        }
        let rows = self.choices.iter().map(|choice| {
            let mut row = vec![choice.name.clone()];
            for pool in &self.pools {
                let spread = |figure| Spread::of(&self.of(pool, choice, pattern, figure));
                let number = |figure| {
                    spread(figure).map_or_else(
                        || "-".into(),
                        |spread: Spread| format!("{:.2}", spread.median),
                    )
                };
                row.push(spread(|seen| seen.us).map_or_else(|| "-".into(), time_text));
                row.push(number(|seen| seen.amplification));
                row.push(number(|seen| seen.faults));
            }
            row
        });
        Table {
            title: format!(
                "Price of a written frame, after a checkpoint: {}",
                PATTERNS[pattern].0
            ),
            columns,
            rows: rows.collect(),
        }
    }

    /// Fixed choices on the first pool, a curve for each pattern.
    fn charts(&self) -> Vec<Chart> {
        let Some(pool) = self.pools.first() else {
            return Vec::new();
        };
        let series = PATTERNS
            .into_iter()
            .enumerate()
            .map(|(pattern, (name, _))| {
                let mut series = Series {
                    name: name.into(),
                    points: Vec::new(),
                };
                for (frames, choice) in FIXED.into_iter().zip(&self.choices) {
                    for us in self.of(pool, choice, pattern, |seen| seen.us) {
                        series.add(f64::from(frames), us);
                    }
                }
                series
            });
        vec![Chart {
            stacks: Vec::new(),
            file: "clusters".into(),
            title: format!("Copy-on-write in clusters, on {}", pool.medium),
            x: Axis::logarithmic("frames copied for a fault", 2.0),
            y: Axis::logarithmic("time of a written frame (µs)", 10.0),
            series: series.collect(),
        }]
    }

    fn present(self) -> Experiment {
        Experiment {
            name: "clusters".into(),
            title: "How much is copied for a write".into(),
            about: format!(
                "After a checkpoint a guest with {} touched reads all of it, so that it is \
                 mapped, and then writes: one frame of a hundred, or all. Each \
                 write fault copies so many frames, in an aligned window. The last row is what \
                 VMs do: a fault that goes on where the last one of its 2 MiB \
                 ended copies twice as much as that one did. A frame's time is what the same \
                 writes take less when nothing is copied any more.",
                human_units::size(self.size)
            ),
            charts: self.charts(),
            tables: (0..PATTERNS.len())
                .map(|pattern| self.table(pattern))
                .collect(),
            targets: Vec::new(),
            limits: vec![
                "Pools on hugetlbfs copy 2 MiB for a fault whatever is chosen, and on media \
                 without userfaultfd the host's kernel copies single pages: these \
                 are not measured."
                    .into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }
}

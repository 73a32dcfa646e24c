//! Checkpoints in a rhythm: what a ring of them costs a guest that goes on writing, and what it
//! takes to go back.

use std::{
    thread,
    time::{Duration, Instant},
};

use nvvmm::{VmError, ring::RingSettings};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    console::numbers,
    guest::Guest,
    observed::{Observations, time_text},
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Series, Table, Target},
    rewinds::{self, Rewinds},
    statistics::Spread,
};
use crate::human_units;

const SEED: u64 = 23;
/// Memory that the guest keeps rewriting.
const WORKING_SET: u64 = 16 << 20;
/// Memory written by guests that are checkpointed at one interval only.
const OTHER_WORKING_SETS: [u64; 2] = [4 << 20, 64 << 20];
/// Time between the beginnings of two checkpoints; 0: one begins when the one before is done.
const PERIODS_MS: [u64; 6] = [0, 5, 10, 20, 50, 100];
/// The period of all that is not the curve.
const PERIOD_MS: u64 = 10;
const KEEP: u64 = 8;
/// Shortest time for which the guest's writes are counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Least number of periods for which they are counted.
const WINDOW_PERIODS: u32 = 10;
/// Time that the guest runs before its writes are counted: copies of what the last checkpoint
/// shares are made.
const SETTLING: Duration = Duration::from_millis(100);
/// Rewinds in each repetition.
const REWINDS: usize = 3;

/// A guest that is checkpointed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Workload {
    working_set: u64,
    vcpus: u8,
}

/// Effect of a ring on the guest.
#[derive(Clone, Debug)]
struct Turn {
    medium: String,
    workload: Workload,
    period_ms: u64,
    /// Frames that the guest wrote in a second, without the ring and with it.
    alone: f64,
    beside_ring: f64,
    /// Checkpoints in a second, and those that began too late.
    rate: f64,
    missed: f64,
    pause_us: f64,
    pause_us_max: f64,
    total_us: f64,
    /// For each checkpoint.
    written: f64,
    faults: f64,
    copied: f64,
}

impl Turn {
    /// Part of its work that the guest did not do because of the ring, in percent.
    fn slowdown(&self) -> f64 {
        (1.0 - self.beside_ring / self.alone) * 100.0
    }
}

/// The experiment while it is done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    curve: Workload,
    others: Vec<Workload>,
    turns: Vec<Turn>,
    /// Table of a checkpoint's time by phase, each period by itself.
    phases: Observations,
    rewinds: Vec<(String, Rewinds)>,
    frames_verified: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, a ring failed, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let largest = plan.sizes.last().copied().unwrap_or_default();
    // Whoever takes checkpoints and copies ahead needs a CPU of the host's.
    let beside = cpus().saturating_sub(1).clamp(1, u8::MAX.into()) as u8;
    let curve = Workload {
        working_set: WORKING_SET.min(largest),
        vcpus: plan.vcpus.min(beside),
    };
    let sets = OTHER_WORKING_SETS.into_iter().filter(|set| *set <= largest);
    let mut others: Vec<Workload> = sets
        .map(|working_set| Workload {
            working_set,
            ..curve
        })
        .collect();
    others.push(Workload {
        vcpus: plan.vcpus,
        ..curve
    });
    others.retain(|other| *other != curve);
    let mut measuring = Measuring {
        pools,
        curve,
        others,
        turns: Vec::new(),
        phases: Observations::default(),
        rewinds: Vec::new(),
        frames_verified: 0,
    };
    for turn in 1..=plan.repeat {
        for pool in pools {
            progress.step(&format!(
                "rate: {} rewritten on {}, {turn} of {}",
                human_units::size(curve.working_set),
                pool.medium,
                plan.repeat
            ))?;
            measuring.one_turn(pool, progress)?;
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    fn one_turn(&mut self, pool: &BenchPool, progress: &Progress) -> Result<(), VmError> {
        self.with_guest(pool, self.curve, &PERIODS_MS, progress)?;
        for other in self.others.clone() {
            self.with_guest(pool, other, &[PERIOD_MS], progress)?;
        }
        let set = self.curve.working_set;
        pool.warm(set * (keep(pool, set) + 2))?;
        let ring = [
            format!("--every={PERIOD_MS}ms"),
            format!("--keep={}", keep(pool, set)),
        ];
        let rewinds = rewinds::measure(pool, set, &ring.each_ref().map(String::as_str), REWINDS)?;
        self.frames_verified += rewinds.frames_verified;
        self.rewinds.push((pool.medium.clone(), rewinds));
        Ok(())
    }

    /// One guest that never stops writing, and rings of it, one after the other.
    fn with_guest(
        &mut self,
        pool: &BenchPool,
        workload: Workload,
        periods_ms: &[u64],
        progress: &Progress,
    ) -> Result<(), VmError> {
        let set = workload.working_set;
        pool.warm(set * (keep(pool, set) + 2))?;
        let mut guest = pool.boot_machine(nvvmm::spec::VmSpec {
            vcpus: workload.vcpus,
            ..pool.spec(set)
        })?;
        guest.fill(set, SEED)?;
        guest.ask(&format!("churn on {SEED} rand"))?;
        for &period_ms in periods_ms {
            progress.go_on()?;
            let turn = self.one_ring(pool, &mut guest, workload, period_ms)?;
            self.turns.push(turn);
        }
        self.frames_verified += guest.verify()?;
        let name = guest.name().to_owned();
        drop(guest);
        let newest = pool.checkpoints(&name)?.pop();
        let newest = newest.ok_or_else(|| VmError::failed("a ring has taken no checkpoint"))?;
        self.frames_verified += pool.restore(&newest, RestoreKind::Lazy)?.verify()?;
        pool.remove_checkpoints(&name)
    }

    fn one_ring(
        &mut self,
        pool: &BenchPool,
        guest: &mut Guest,
        workload: Workload,
        period_ms: u64,
    ) -> Result<Turn, VmError> {
        let every = Duration::from_millis(period_ms);
        let alone = Work::of(guest, SETTLING, WINDOW)?;
        let mut ring = guest.begin_ring(RingSettings {
            every,
            keep: keep(pool, workload.working_set) as u32,
            replaced: 0,
        })?;
        let beside = Work::of(
            guest,
            SETTLING.max(every),
            WINDOW.max(every * WINDOW_PERIODS),
        )?;
        ring.stop();
        let status = ring.status();
        if let Some(failure) = status.failure {
            return Err(failure);
        }
        if workload == self.curve {
            self.phases.add(
                &pool.medium,
                period_ms as f64,
                status.total_us_mean,
                &status.phases_mean,
            );
        }
        let rate = status.taken as f64 / status.lasted_us * 1e6;
        let each = |count: f64| count / (rate * beside.seconds);
        Ok(Turn {
            medium: pool.medium.clone(),
            workload,
            period_ms,
            alone: alone.frames / alone.seconds,
            beside_ring: beside.frames / beside.seconds,
            rate,
            missed: status.missed as f64,
            pause_us: status.pause_us_mean,
            pause_us_max: status.pause_us_max,
            total_us: status.total_us_mean,
            written: each(beside.frames),
            faults: each(beside.faults),
            copied: each(beside.copied),
        })
    }

    fn present(self) -> Experiment {
        let set = human_units::size(self.curve.working_set);
        let rows = self.pools.iter().flat_map(|pool| {
            PERIODS_MS.map(|period_ms| {
                row(
                    format!("{}, {}", pool.medium, period_text(period_ms)),
                    &self.of(pool, self.curve, period_ms),
                )
            })
        });
        let others = self.pools.iter().flat_map(|pool| {
            self.others.iter().map(|other| {
                row(
                    format!(
                        "{}, {}, {}",
                        pool.medium,
                        human_units::size(other.working_set),
                        vcpus_text(other.vcpus)
                    ),
                    &self.of(pool, *other, PERIOD_MS),
                )
            })
        });
        Experiment {
            name: "rate".into(),
            title: "Checkpoints in a rhythm".into(),
            about: format!(
                "A guest rewrites {set} of memory all the time, frame by frame in an order that \
                 looks random, with {}, on {} of the host; each word that it \
                 replaces is compared with what it must be. A ring of checkpoints is begun, as by \
                 `nvvmm checkpoint --every PERIOD --keep {KEEP}` (fewer where \
                 the pool has no room for so many), and ended, once for each period. The slowdown \
                 is the part of its work that the guest does not do: frames \
                 written in a second with the ring, against those in the same guest right before, \
                 without. The guest counts them in its memory, and is asked \
                 before and after; nobody interrupts it for that in between. At the end it \
                 compares all of its memory, ends, and the newest checkpoint is \
                 restored and compared, too.",
                vcpus_text(self.curve.vcpus),
                match cpus() {
                    1 => "1 CPU".to_owned(),
                    cpus => format!("{cpus} CPUs"),
                }
            ),
            charts: vec![self.chart()],
            tables: vec![
                table(&format!("{set} rewritten all the time"), rows.collect()),
                table(
                    &format!("Other guests, a checkpoint every {PERIOD_MS} ms"),
                    others.collect(),
                ),
                self.phases.phases(
                    &format!(
                        "Where a checkpoint goes, one every {PERIOD_MS} ms (means, of them \
                              the medians)"
                    ),
                    PERIOD_MS as f64,
                ),
                self.rewinds_table(),
            ],
            targets: self.targets(),
            limits: vec![
                "Threads that take checkpoints and copy frames need a CPU. Where all of them run \
                 vCPUs, as with 2 vCPUs on 2 CPUs, that is missing to the \
                 guest, and is in its slowdown."
                    .into(),
                "The work that the slowdown is a part of has the guest's own look for console \
                 input in it, every 0.2 ms, with and without a ring."
                    .into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    fn of(&self, pool: &BenchPool, workload: Workload, period_ms: u64) -> Vec<&Turn> {
        let those = self.turns.iter();
        those
            .filter(|turn| {
                turn.medium == pool.medium
                    && turn.workload == workload
                    && turn.period_ms == period_ms
            })
            .collect()
    }

    fn chart(&self) -> Chart {
        let series = self.pools.iter().map(|pool| {
            let mut series = Series {
                name: pool.medium.clone(),
                points: Vec::new(),
            };
            for period_ms in PERIODS_MS {
                for turn in self.of(pool, self.curve, period_ms) {
                    series.add(period_ms as f64, turn.slowdown());
                }
            }
            series
        });
        Chart {
            stacks: Vec::new(),
            file: "rate".into(),
            title: format!(
                "A guest that rewrites {}, checkpointed in a rhythm",
                human_units::size(self.curve.working_set)
            ),
            x: Axis::linear("time between two checkpoints (ms; 0: as many as there can be)"),
            y: Axis::linear("slowdown of the guest (%)"),
            series: series.collect(),
        }
    }

    fn rewinds_table(&self) -> Table {
        let rows = self.pools.iter().map(|pool| {
            let of_place = || {
                self.rewinds
                    .iter()
                    .filter(|(medium, _)| *medium == pool.medium)
                    .map(|(_, rewinds)| rewinds)
            };
            let stopped: Vec<f64> = of_place().flat_map(|r| r.stopped_us.clone()).collect();
            let total: Vec<f64> = of_place().flat_map(|r| r.total_us.clone()).collect();
            vec![pool.medium.clone(), spread(&stopped), spread(&total)]
        });
        Table {
            title: format!(
                "Back to the newest checkpoint of a ring, one every {PERIOD_MS} ms (nvvmm rewind, \
                 a VM in a process of its own)"
            ),
            columns: ["pool", "no guest", "in all"].map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for pool in self.pools.iter().filter(|pool| pool.has_huge_pages()) {
            let turns = self.of(pool, self.curve, PERIOD_MS);
            let mut target = |what: &str, wanted: Bound, unit: &str, figure: fn(&Turn) -> f64| {
                let measured: Vec<f64> = turns.iter().map(|turn| figure(turn)).collect();
                targets.extend(Spread::of(&measured).map(|measured| Target {
                    what: format!("{}, every {PERIOD_MS} ms: {what}", pool.medium),
                    wanted,
                    measured,
                    unit: unit.into(),
                }));
            };
            target(
                "checkpoints in a second",
                Bound::AtLeast(100.0),
                "",
                |turn| turn.rate,
            );
            target(
                "slowdown of the guest",
                Bound::AtMost(15.0),
                "%",
                Turn::slowdown,
            );
        }
        targets
    }
}

/// Work of a guest in a while.
struct Work {
    seconds: f64,
    frames: f64,
    faults: f64,
    copied: f64,
}

impl Work {
    /// After `settling`, for so long.
    fn of(guest: &mut Guest, settling: Duration, window: Duration) -> Result<Self, VmError> {
        // The first answer ends what the guest says; each comes as long after the guest has counted
        // as the other.
        let look = |guest: &mut Guest| -> Result<_, VmError> {
            let counters = guest.vm().engine.counters();
            let written: u64 = numbers(&guest.ask("stat")?, "seq")?.iter().sum();
            Ok((Instant::now(), written, counters))
        };
        thread::sleep(settling);
        let before = look(guest)?;
        thread::sleep(window);
        let after = look(guest)?;
        Ok(Self {
            seconds: (after.0 - before.0).as_secs_f64(),
            frames: (after.1 - before.1) as f64,
            faults: (after.2.write_faults - before.2.write_faults) as f64,
            copied: (after.2.frames_copied - before.2.frames_copied) as f64,
        })
    }
}

/// Number of checkpoints that the pool has room for, up to the usual one. Each may have a working
/// set of its own, and so have the guest and the checkpoint that is being taken.
fn keep(pool: &BenchPool, working_set: u64) -> u64 {
    (pool.pool_bytes() / 2 / working_set)
        .saturating_sub(2)
        .clamp(1, KEEP)
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn table(title: &str, rows: Vec<Vec<String>>) -> Table {
    let columns = [
        "pool",
        "slowdown",
        "checkpoints / s",
        "missed",
        "pause",
        "longest",
        "in all",
        "frames written",
        "faults",
        "frames copied",
    ];
    Table {
        title: format!(
            "{title} (medians; pause, in all: the means of a ring's checkpoints; frames, faults: \
             for each checkpoint)"
        ),
        columns: columns.map(str::to_owned).to_vec(),
        rows,
    }
}

fn row(name: String, turns: &[&Turn]) -> Vec<String> {
    let spread_of = |figure: &dyn Fn(&Turn) -> f64| {
        Spread::of(&turns.iter().map(|turn| figure(turn)).collect::<Vec<_>>())
    };
    let number = |figure: &dyn Fn(&Turn) -> f64| {
        spread_of(figure).map_or_else(|| "-".into(), |s| format!("{:.0}", s.median))
    };
    let time = |figure: &dyn Fn(&Turn) -> f64| {
        spread_of(figure).map_or_else(|| "-".into(), |s| human_units::time_us(s.median))
    };
    let slowdown = spread_of(&Turn::slowdown).map_or_else(
        || "-".into(),
        |s| format!("{:.1}% ({:.1}..{:.1})", s.median, s.min, s.max),
    );
    vec![
        name,
        slowdown,
        number(&|turn| turn.rate),
        number(&|turn| turn.missed),
        time(&|turn| turn.pause_us),
        time(&|turn| turn.pause_us_max),
        time(&|turn| turn.total_us),
        number(&|turn| turn.written),
        number(&|turn| turn.faults),
        number(&|turn| turn.copied),
    ]
}

fn period_text(period_ms: u64) -> String {
    match period_ms {
        0 => "one after the other".into(),
        ms => format!("every {ms} ms"),
    }
}

fn vcpus_text(vcpus: u8) -> String {
    match vcpus {
        1 => "1 vCPU".into(),
        vcpus => format!("{vcpus} vCPUs"),
    }
}

fn spread(us: &[f64]) -> String {
    Spread::of(us).map_or_else(|| "-".into(), time_text)
}

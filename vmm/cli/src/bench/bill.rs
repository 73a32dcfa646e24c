//! The bill of a checkpoint: how much time a guest that writes all the time loses, from the request
//! on, until it has written a part of its memory again. By reference, and by copying.

use nvvmm::{VmError, spec::VmSpec};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    copied,
    guest::Guest,
    observed::{size_name, time_text},
    paper::{fastest_threads, used_bytes},
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Series, Stack, Table, Target},
    statistics::{Spread, ratios},
    walk::{self, Cost, Walk},
};
use crate::human_units;

const COPY: &str = "copy";
const REFERENCE: &str = "reference";
/// Parts of all memory that the guest has written again.
const PARTS: [f64; 4] = [0.01, 0.1, 0.5, 1.0];
/// Bounds of the bill for each of them, as parts of what copying costs.
const WANTED: [f64; 4] = [0.05, 0.15, 1.0, 1.0];
/// Checkpoints that are measured, counted from 1.
const MEASURED: [u32; 3] = [1, 2, 10];
/// Smallest memory of a guest that is checkpointed so often. With less the tenth says no more than
/// the second.
const MANY_FROM: u64 = 256 << 20;
/// Memory that is copied to find out how many threads are fastest, at most.
const CALIBRATE_MAX: u64 = 128 << 20;
/// Orders in which the guest writes its memory, and the words of its command.
const ORDERS: [(&str, &str); 2] = [("in a row", "seq"), ("at random", "rand")];
/// Memory of guests that are measured when no sizes were asked for: one like this, and the largest.
const SIZE_USUAL: u64 = 512 << 20;

/// A bill.
struct Seen {
    size: u64,
    medium: String,
    way: &'static str,
    order: usize,
    number: u32,
    cost: Cost,
}

/// The experiment while it is done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    sizes: Vec<u64>,
    /// Threads with which a copied checkpoint is written fastest, for each pool.
    threads: Vec<usize>,
    seen: Vec<Seen>,
    frames_verified: u64,
}

/// Sizes of this experiment and its kind: 512 MiB and the largest.
pub fn sizes(plan: &Plan) -> Vec<u64> {
    let largest = plan.sizes.last().copied().unwrap_or_default();
    let chosen = plan.sizes.iter().copied();
    chosen
        .filter(|size| *size == SIZE_USUAL || *size == largest)
        .collect()
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let sizes = sizes(plan);
    let smallest = sizes.first().copied().unwrap_or_default();
    let mut threads = Vec::new();
    for pool in pools {
        progress.step(&format!(
            "bill: how many threads copy fastest on {}",
            pool.medium
        ))?;
        threads.push(fastest_threads(pool, smallest.min(CALIBRATE_MAX))?.write);
    }
    let mut measuring = Measuring {
        pools,
        sizes,
        threads,
        seen: Vec::new(),
        frames_verified: 0,
    };
    for size in measuring.sizes.clone() {
        for turn in 1..=plan.repeat {
            for (index, pool) in pools.iter().enumerate() {
                for (order, (name, _)) in ORDERS.into_iter().enumerate() {
                    progress.step(&format!(
                        "bill: {} rewritten {name} on {}, {turn} of {}",
                        human_units::size(size),
                        pool.medium,
                        plan.repeat
                    ))?;
                    measuring.one_guest(index, size, order, progress)?;
                }
            }
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    /// One guest, and its checkpoints by either way, in turns.
    fn one_guest(
        &mut self,
        index: usize,
        size: u64,
        order: usize,
        progress: &Progress,
    ) -> Result<(), VmError> {
        let (pool, threads) = (&self.pools[index], self.threads[index]);
        let mut guest = pool.boot_machine(VmSpec {
            vcpus: 1,
            ..pool.spec(size)
        })?;
        let used = used_bytes(&mut guest, size)?;
        let can_copy = pool.has_room_beside(used)?;
        let walk = Walk::begin(&mut guest, size, ORDERS[order].1)?;
        let last = match order {
            0 if size >= MANY_FROM => MEASURED[2],
            0 => MEASURED[1],
            _ => MEASURED[0],
        };
        for number in 1..=last {
            progress.go_on()?;
            let is_measured = MEASURED.contains(&number);
            if is_measured && can_copy {
                let cost = by_copying(pool, &guest, &walk, (used, threads))?;
                self.add(index, size, COPY, (order, number), cost);
            }
            if number > 1 {
                pool.remove(&name(number - 1))?;
            }
            pool.warm(size)?;
            let cost = by_reference(pool, &guest, &walk, &name(number))?;
            if is_measured {
                self.add(index, size, REFERENCE, (order, number), cost);
            }
        }
        self.frames_verified += walk.end(&mut guest)?;
        drop(guest);
        let mut restored = pool.restore(&name(last), RestoreKind::Lazy)?;
        self.frames_verified += walk::verify(&mut restored)?;
        drop(restored);
        pool.remove(&name(last))
    }

    fn add(
        &mut self,
        index: usize,
        size: u64,
        way: &'static str,
        (order, number): (usize, u32),
        cost: Cost,
    ) {
        self.seen.push(Seen {
            size,
            medium: self.pools[index].medium.clone(),
            way,
            order,
            number,
            cost,
        });
    }

    fn present(self) -> Experiment {
        let tables = self.sizes.iter().flat_map(|size| {
            PARTS
                .into_iter()
                .enumerate()
                .map(|(part, of)| self.table(*size, part, of))
        });
        let threads = self.pools.iter().zip(&self.threads);
        let threads = threads.map(|(pool, threads)| format!("{}: {threads}", pool.medium));
        Experiment {
            name: "bill".into(),
            title: "The whole bill of a checkpoint".into(),
            about: format!(
                "A guest with 1 vCPU writes a word to each frame of its memory, pass after pass, \
                 in a row or in an order that looks random, and is checkpointed meanwhile. The \
                 bill is the time that it loses, by its own time stamp counter, from the request \
                 until it has written a part of all memory after the instant of the checkpoint: \
                 the time for these steps, less the time that so many steps took in the passes \
                 before. It is the pause as the guest sees it, and *extra time* in which writes \
                 are slow. `{COPY}`: while the guest stands still all of its memory is written to \
                 a file on the same medium, with as many threads as are fastest ({}); its next \
                 pass has nothing to wait for. `{REFERENCE}` is `nvvmm snapshot`. Before the \
                 second and the tenth checkpoint the one before was removed, and all memory was \
                 written. At the end the guest compares each frame with the pass that it must be \
                 of, and so does a guest restored from the last checkpoint.",
                threads.collect::<Vec<_>>().join("; ")
            ),
            charts: self.sizes.iter().map(|size| self.chart(*size)).collect(),
            tables: tables.collect(),
            targets: self.targets(),
            limits: vec![
                "A pass in a row is the best case of whoever copies ahead, and one at random the \
                 worst. Real guests lie between them."
                    .into(),
                "A bill below 0 is noise: the passes before were slower.".into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    /// Pauses and bills of one kind, in microseconds.
    fn costs(
        &self,
        (size, medium, way): (u64, &str, &str),
        (order, number): (usize, u32),
        part: usize,
    ) -> Vec<(f64, f64)> {
        let those = self.seen.iter().filter(|seen| {
            (seen.size, seen.medium.as_str(), seen.way) == (size, medium, way)
                && (seen.order, seen.number) == (order, number)
        });
        those
            .map(|seen| (seen.cost.pause_us, seen.cost.lost_us[part]))
            .collect()
    }

    /// Kinds of checkpoints, by order and number.
    fn kinds(&self, size: u64) -> Vec<(usize, u32)> {
        let those = self.seen.iter().filter(|seen| seen.size == size);
        let mut kinds: Vec<(usize, u32)> = those.map(|seen| (seen.order, seen.number)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    fn table(&self, size: u64, part: usize, of: f64) -> Table {
        let mut rows = Vec::new();
        for pool in self.pools {
            for kind in self.kinds(size) {
                let of_way = |way| self.costs((size, &pool.medium, way), kind, part);
                let cells = [COPY, REFERENCE].map(of_way);
                let pauses = cells.each_ref().map(|costs| firsts(costs));
                let bills = cells.each_ref().map(|costs| seconds(costs));
                let ratio = ratios(&bills[1], &bills[0]);
                rows.push(vec![
                    format!("{}, {}", pool.medium, kind_text(kind)),
                    spread(&pauses[0]),
                    spread(&bills[0]),
                    spread(&pauses[1]),
                    spread(&bills[1]),
                    Spread::of(&ratio).map_or_else(
                        || "-".into(),
                        |r| format!("{:.2}x ({:.2}..{:.2})", r.median, r.min, r.max),
                    ),
                ]);
            }
        }
        Table {
            title: format!(
                "{}: bill when {} of it are written again",
                size_name(size),
                percent(of)
            ),
            columns: [
                "checkpoint",
                "copy: pause",
                "copy: bill",
                "reference: pause",
                "reference: bill",
                "reference / copy",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows,
        }
    }

    /// The bill of the first checkpoint, written in a row.
    fn chart(&self, size: u64) -> Chart {
        let (mut series, mut stacks) = (Vec::new(), Vec::new());
        for pool in self.pools {
            for way in [COPY, REFERENCE] {
                let name = match self.pools.len() {
                    1 => way.to_owned(),
                    _ => format!("{way}, {}", pool.medium),
                };
                let [mut pause, mut extra] = ["pause", "extra time"].map(|what| Series {
                    name: format!("{name}: {what}"),
                    points: Vec::new(),
                });
                for part in 0..PARTS.len() {
                    for (paused, bill) in self.costs((size, &pool.medium, way), (0, 1), part) {
                        pause.add(part as f64, paused / 1000.0);
                        extra.add(part as f64, (bill - paused).max(0.0) / 1000.0);
                    }
                }
                if !pause.points.is_empty() {
                    stacks.push(Stack {
                        name,
                        series: vec![pause.name.clone(), extra.name.clone()],
                    });
                    series.extend([pause, extra]);
                }
            }
        }
        Chart {
            file: format!("bill-{}", size_name(size).replace(' ', "")),
            title: format!("The bill of a first checkpoint, {}", size_name(size)),
            x: Axis::named("written again after the checkpoint", &PARTS.map(percent)),
            y: Axis::linear("time that the guest loses (ms)"),
            series,
            stacks,
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for size in &self.sizes {
            for pool in self.pools {
                for kind in self.kinds(*size) {
                    for (part, wanted) in WANTED.into_iter().enumerate() {
                        let bills = [REFERENCE, COPY].map(|way| {
                            seconds(&self.costs((*size, &pool.medium, way), kind, part))
                        });
                        targets.extend(Spread::of(&ratios(&bills[0], &bills[1])).map(|measured| {
                            Target {
                                what: format!(
                                    "bill of {}, {}, {}, {} written: reference / copy",
                                    size_name(*size),
                                    pool.medium,
                                    kind_text(kind),
                                    percent(PARTS[part])
                                ),
                                wanted: Bound::AtMost(wanted),
                                measured,
                                unit: "x".into(),
                            }
                        }));
                    }
                }
            }
        }
        targets
    }
}

fn by_copying(
    pool: &BenchPool,
    guest: &Guest,
    walk: &Walk,
    (used, threads): (u64, usize),
) -> Result<Cost, VmError> {
    pool.warm(used)?;
    let mut kept = None;
    walk.cost(&PARTS, || {
        // The file of an attempt before goes first.
        drop(kept.take());
        let copy = copied::checkpoint(pool, guest, used, threads)?;
        walk::steps_in_copy(kept.insert(copy))
    })
}

fn by_reference(pool: &BenchPool, guest: &Guest, walk: &Walk, name: &str) -> Result<Cost, VmError> {
    let mut is_there = false;
    walk.cost(&PARTS, || {
        if std::mem::replace(&mut is_there, true) {
            pool.remove(name)?;
        }
        guest.snapshot(name)?;
        walk::steps_in_snapshot(pool, name)
    })
}

fn name(number: u32) -> String {
    format!("bill-{number}")
}

fn kind_text((order, number): (usize, u32)) -> String {
    let number = match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        number => format!("{number}th"),
    };
    format!("{number}, {}", ORDERS[order].0)
}

fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

fn firsts(costs: &[(f64, f64)]) -> Vec<f64> {
    costs.iter().map(|cost| cost.0).collect()
}

fn seconds(costs: &[(f64, f64)]) -> Vec<f64> {
    costs.iter().map(|cost| cost.1).collect()
}

fn spread(us: &[f64]) -> String {
    Spread::of(us).map_or_else(|| "-".into(), time_text)
}

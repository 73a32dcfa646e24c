//! Cost of copy-on-write for a guest after a checkpoint, compared with what the kernel takes for
//! the same on a private mapping.

use std::time::Instant;

use nvvmm::VmError;

use super::{
    bench_pool::{BenchPool, RestoreKind},
    console::{Console, number},
    copied,
    mapped::MappedGuest,
    observed::{Observations, time_text},
    paper::used_bytes,
    plan::Plan,
    progress::Progress,
    report::{Bound, Experiment, Table, Target},
    statistics::{Spread, ratios},
    writes::Writes,
};
use crate::human_units;

const SEED: u64 = 13;
/// Memory that is rewritten, at most.
const SIZE_MAX: u64 = 512 << 20;
/// The orders in which a guest rewrites its memory, and what its command calls them.
const ORDERS: [(&str, &str); 2] = [("in a row", "seq"), ("at random", "rand")];
const KERNEL: &str = "kernel's private mapping";
const KERNEL_READ: &str = "kernel's private mapping, read before";
/// One frame of so many, each by itself, is a sparse write.
const SPARSE: u64 = 100;
/// Checkpoints between which the same memory is written, and how much that is.
const EPOCHS: usize = 40;
const WORKING_SET_MIB: u64 = 16;

/// The experiment while it is done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    size: u64,
    /// Microseconds for each frame, one series for each pool; x is the number of the order.
    tax: Observations,
    plain: Observations,
    sparse: Vec<(String, Writes)>,
    stable: Vec<(String, Writes)>,
    frames_verified: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let mut measuring = Measuring {
        pools,
        size: plan.sizes.last().copied().unwrap_or_default().min(SIZE_MAX),
        tax: Observations::default(),
        plain: Observations::default(),
        sparse: Vec::new(),
        stable: Vec::new(),
        frames_verified: 0,
    };
    for (x, (order, word)) in ORDERS.into_iter().enumerate() {
        for turn in 1..=plan.repeat {
            progress.step(&format!(
                "cow: all is rewritten {order}, {turn} of {}",
                plan.repeat
            ))?;
            for (index, pool) in pools.iter().enumerate() {
                measuring.rewrite(pool, index == 0, (x as f64, word))?;
            }
        }
    }
    for turn in 1..=plan.repeat {
        progress.step(&format!(
            "cow: sparse writes and a stable working set, {turn} of {}",
            plan.repeat
        ))?;
        for pool in pools {
            measuring.write_little(pool)?;
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    /// All is written after a checkpoint, and once more without one.
    fn rewrite(
        &mut self,
        pool: &BenchPool,
        with_kernel: bool,
        (x, order): (f64, &str),
    ) -> Result<(), VmError> {
        let mut guest = pool.boot(self.size)?;
        guest.fill(self.size, SEED)?;
        if with_kernel {
            let used = used_bytes(&mut guest, self.size)?;
            let copy = copied::checkpoint(pool, &guest, used, 1)?;
            for (series, is_read) in [(KERNEL, false), (KERNEL_READ, true)] {
                let mut mapped = MappedGuest::start(pool, &copy)?;
                if is_read {
                    let read = format!("touch {} read", self.size >> 20);
                    mapped.console.ask(&read)?;
                }
                let us = self.first_and_second(pool, &mut mapped.console, order)?;
                self.frames_verified += number(&mapped.console.ask("check")?, "frames")?;
                self.tax.add(series, x, us.0, &[]);
                self.plain.add(series, x, us.1, &[]);
            }
        }
        guest.snapshot("cow")?;
        let us = self.first_and_second(pool, guest.console(), order)?;
        self.tax.add(&pool.medium, x, us.0, &[]);
        self.plain.add(&pool.medium, x, us.1, &[]);
        self.frames_verified += guest.verify()?;
        drop(guest);
        let mut restored = pool.restore("cow", RestoreKind::Lazy)?;
        self.frames_verified += restored.verify()?;
        drop(restored);
        pool.remove("cow")
    }

    /// Microseconds for each frame of a first pass that writes, and of a second one.
    fn first_and_second(
        &self,
        pool: &BenchPool,
        console: &mut Console,
        order: &str,
    ) -> Result<(f64, f64), VmError> {
        let mib = self.size >> 20;
        pool.warm(self.size)?;
        let mut pass = || -> Result<f64, VmError> {
            let began = Instant::now();
            console.ask(&format!("touch {mib} {order}"))?;
            Ok(began.elapsed().as_secs_f64() * 1e6 / (self.size / 4096) as f64)
        };
        Ok((pass()?, pass()?))
    }

    /// Sparse writes after a checkpoint; then the same memory between one checkpoint and the next.
    fn write_little(&mut self, pool: &BenchPool) -> Result<(), VmError> {
        let mut guest = pool.boot(self.size)?;
        guest.fill(self.size, SEED)?;
        guest.snapshot("sparse")?;
        guest.ask(&format!("touch {} read", self.size >> 20))?;
        let count = self.size / 4096 / SPARSE;
        let sparse = Writes::of(&mut guest, &format!("write 0 {count} {SPARSE}"))?;
        self.sparse.push((pool.medium.clone(), sparse));
        let working_set = WORKING_SET_MIB.min(self.size >> 20);
        let command = format!("touch {working_set} rand");
        guest.snapshot("stable-0")?;
        pool.remove("sparse")?;
        for epoch in 1..=EPOCHS {
            let written = Writes::of(&mut guest, &command)?;
            // Whoever copies ahead has to have seen a few epochs.
            if epoch > EPOCHS / 2 {
                self.stable.push((pool.medium.clone(), written));
            }
            guest.snapshot(&format!("stable-{epoch}"))?;
            pool.remove(&format!("stable-{}", epoch - 1))?;
        }
        self.frames_verified += guest.verify()?;
        drop(guest);
        pool.remove(&format!("stable-{EPOCHS}"))
    }

    fn present(self) -> Experiment {
        let name_order = |x: f64| ORDERS[x as usize].0.to_owned();
        let size = human_units::size(self.size);
        Experiment {
            name: "cow".into(),
            title: "What copy-on-write costs a guest".into(),
            about: format!(
                "After a checkpoint a guest with {size} touched dirties every frame, with all \
                 vCPUs, in a row or at random. `{KERNEL}` is the same guest whose memory is a \
                 private mapping of a file on {}, which the host's kernel copies on write; \
                 nobody has read through that mapping before. `{KERNEL_READ}`: the guest has \
                 first read all of it. Then each page is mapped already, and the kernel has to \
                 take it away from KVM before it maps the copy, so a write is slower: earlier \
                 versions of this report compared with that alone. Of the guest of nvvmm all is \
                 mapped anyway, as it has just written it. The second pass meets copied memory \
                 only.",
                self.pools[0].medium
            ),
            charts: Vec::new(),
            tables: vec![
                self.tax.times(
                    "Time for each frame, first pass after a checkpoint",
                    "order",
                    name_order,
                ),
                self.plain
                    .times("Time for each frame, second pass", "order", name_order),
                counts(
                    &format!("Sparse writes: one frame of {SPARSE}, each by itself"),
                    &self.sparse,
                ),
                counts(
                    &format!("A stable working set of {WORKING_SET_MIB} MiB between checkpoints"),
                    &self.stable,
                ),
            ],
            targets: self.targets(),
            limits: vec![
                "The time of a frame holds what the guest's own write takes and, on a software \
                 KVM, what that needs to map the page anew: see the \
                 second pass."
                    .into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for pool in self.pools {
            for (x, (order, _)) in ORDERS.into_iter().enumerate() {
                let [ours, kernels] = [pool.medium.as_str(), KERNEL]
                    .map(|series| self.tax.times_us(series, x as f64));
                targets.extend(Spread::of(&ratios(&ours, &kernels)).map(|measured| Target {
                    what: format!(
                        "{}: time of a frame {order}, against the kernel's private mapping",
                        pool.medium
                    ),
                    wanted: Bound::AtMost(1.0),
                    measured,
                    unit: "x".into(),
                }));
            }
            let stable = self
                .stable
                .iter()
                .filter(|(medium, _)| *medium == pool.medium);
            let faults: Vec<f64> = stable
                .map(|(_, copied)| copied.frames_written / copied.faults.max(1.0))
                .collect();
            targets.extend(Spread::of(&faults).map(|measured| Target {
                what: format!(
                    "{}: frames dirtied for each fault, stable working set",
                    pool.medium
                ),
                wanted: Bound::AtLeast(50.0),
                measured,
                unit: String::new(),
            }));
        }
        targets
    }
}

fn counts(title: &str, seen: &[(String, Writes)]) -> Table {
    let mut media: Vec<&String> = seen.iter().map(|(medium, _)| medium).collect();
    media.sort_unstable();
    media.dedup();
    let rows = media.into_iter().map(|medium| {
        let those: Vec<Writes> = seen
            .iter()
            .filter(|(of, _)| of == medium)
            .map(|(_, copied)| *copied)
            .collect();
        let median = |figure: fn(&Writes) -> f64| {
            Spread::of(&those.iter().map(figure).collect::<Vec<_>>())
                .map_or(0.0, |spread| spread.median)
        };
        let each: Vec<f64> = those.iter().map(Writes::us_each).collect();
        vec![
            medium.clone(),
            format!("{:.0}", median(|copied| copied.frames_written)),
            format!("{:.0}", median(|copied| copied.faults)),
            format!("{:.0}", median(|copied| copied.frames_copied)),
            format!("{:.1}", median(Writes::amplification)),
            Spread::of(&each).map_or_else(|| "-".into(), time_text),
        ]
    });
    let columns = [
        "pool",
        "frames written",
        "faults",
        "frames copied",
        "copied / written",
        "time of a write",
    ];
    Table {
        title: title.into(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

//! Guests with much memory of which they touch little.

use nvvmm::VmError;

use super::{
    bench_pool::{BenchPool, RestoreKind},
    observed::{Observations, size_name},
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Table, Target},
    sparse_writes::SparseWrites,
    statistics::{Spread, ratios},
};
use crate::human_units;

const SEED: u64 = 19;
/// Memory touched, at most.
const TOUCHED_MAX: u64 = 1 << 30;
/// Memory of the guest whose writes are sparse, at most.
const WRITTEN_MAX: u64 = 512 << 20;
/// RAM of the guests.
const RAM_BYTES: [u64; 4] = [2 << 30, 16 << 30, 128 << 30, 1 << 40];
/// RAM for each byte of a pool, at most: while a guest runs, room for a map of all its memory is
/// set aside, a 512th of it.
const RAM_PER_POOL: u64 = 256;
const GIB: f64 = (1 << 30) as f64;
const PAUSE: &str = "checkpoint, pause";
const TOTAL: &str = "checkpoint, in all";
const RESTART: &str = "lazy restart";

/// Measures, on ordinary pages.
///
/// # Errors
/// Something could not be done, or a restored guest's memory is wrong.
pub fn run(plan: &Plan, pool: &BenchPool, progress: &Progress) -> Result<Experiment, VmError> {
    let touched = plan
        .sizes
        .last()
        .copied()
        .unwrap_or_default()
        .min(TOUCHED_MAX);
    let (fitting, too_large): (Vec<u64>, Vec<u64>) = RAM_BYTES
        .into_iter()
        .partition(|ram| *ram <= pool.pool_bytes().saturating_mul(RAM_PER_POOL));
    let mut seen = Observations::default();
    let mut metadata = Vec::new();
    let mut frames_verified = 0;
    for ram in fitting {
        let x = ram as f64 / GIB;
        for turn in 1..=plan.repeat {
            progress.step(&format!(
                "sparse: {} of RAM, {turn} of {}",
                human_units::size(ram),
                plan.repeat
            ))?;
            let mut guest = pool.boot(ram)?;
            guest.fill(touched, SEED)?;
            let report = guest.snapshot("sparse")?;
            drop(guest);
            seen.add(PAUSE, x, report.pause_us, &report.phases);
            seen.add(TOTAL, x, report.total_us, &[]);
            metadata.push((ram, report.metadata_blocks * 4096 + report.state_bytes));
            let mut restored = pool.restore("sparse", RestoreKind::Lazy)?;
            let report = restored.restored()?;
            seen.add(RESTART, x, report.first_instruction_us, &report.phases);
            frames_verified += restored.verify()?;
            drop(restored);
            pool.remove("sparse")?;
        }
    }
    let written = touched.min(WRITTEN_MAX);
    let writes = writes(plan, pool, written, progress)?;
    frames_verified += writes.frames_verified;
    let name_ram = |gib: f64| human_units::size((gib * GIB) as u64);
    let mut tables = vec![
        seen.times("Times", "RAM", name_ram),
        metadata_table(&metadata),
        writes.table(&size_name(written)),
    ];
    if let Some(largest) = seen.places().last() {
        tables.push(seen.phases(
            &format!("Where the time goes with {} (medians)", name_ram(*largest)),
            *largest,
        ));
    }
    Ok(Experiment {
        name: "sparse".into(),
        title: "Much memory, little of it touched".into(),
        about: about(touched, written, pool),
        charts: vec![Chart {
            stacks: Vec::new(),
            file: "sparse".into(),
            title: format!(
                "{} touched of more and more RAM",
                human_units::size(touched)
            ),
            x: Axis::logarithmic("RAM (GiB)", 2.0),
            y: Axis::logarithmic("time (ms)", 10.0),
            series: seen.curves(),
        }],
        targets: { targets(&seen).into_iter() }
            .chain(writes.targets(&pool.medium))
            .collect(),
        tables,
        limits: too_large.into_iter().map(left_out).collect(),
        frames_verified,
        run: None,
    })
}

fn writes(
    plan: &Plan,
    pool: &BenchPool,
    size: u64,
    progress: &Progress,
) -> Result<SparseWrites, VmError> {
    let mut writes = SparseWrites::default();
    for turn in 1..=plan.repeat {
        progress.step(&format!("sparse: writes, {turn} of {}", plan.repeat))?;
        writes.measure(pool, size)?;
    }
    Ok(writes)
}

fn left_out(ram: u64) -> String {
    let ram = human_units::size(ram);
    format!("{ram} of RAM: the pool of this run is too small for it.")
}

fn about(touched: u64, written: u64, pool: &BenchPool) -> String {
    format!(
        "Guests with more and more RAM touch {} of it, are checkpointed, end, and are \
             restored lazily, on {}. Then a guest with 1 vCPU and {} of memory, all of it filled, \
             writes one frame of 100, in an order that looks random: after a checkpoint, after a \
             lazy restore, and as a machine whose memory is a private mapping of a copied \
             checkpoint that nobody has read before.",
        human_units::size(touched),
        pool.medium,
        size_name(written)
    )
}

fn metadata_table(metadata: &[(u64, u64)]) -> Table {
    let mut rows: Vec<Vec<String>> = metadata
        .iter()
        .map(|(ram, bytes)| vec![human_units::size(*ram), human_units::size(*bytes)])
        .collect();
    rows.dedup();
    Table {
        title: "Maps, inode and machine state that a checkpoint writes".into(),
        columns: ["RAM", "written"].map(str::to_owned).to_vec(),
        rows,
    }
}

fn targets(seen: &Observations) -> Vec<Target> {
    let pools = seen.places();
    let (Some(smallest), Some(largest)) = (pools.first(), pools.last()) else {
        return Vec::new();
    };
    [PAUSE, RESTART]
        .into_iter()
        .filter_map(|what| {
            let measured = ratios(
                &seen.times_us(what, *largest),
                &seen.times_us(what, *smallest),
            );
            Some(Target {
                what: format!("{what} with {largest:.0} GiB of RAM / with {smallest:.0} GiB"),
                wanted: Bound::AtMost(1.2),
                measured: Spread::of(&measured)?,
                unit: "x".into(),
            })
        })
        .collect()
}

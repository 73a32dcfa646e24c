//! Cost of checkpoints and clones in memory, and start times of clones as they become many.

use std::{thread, time::Duration};

use nvvmm::{VmError, cow::Techniques};

use super::{
    bench_pool::BenchPool,
    clones::Clones,
    observed::time_text,
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Series, Table, Target},
    statistics::{Spread, ratios},
};
use crate::human_units;

const SEED: u64 = 17;
const MIB: f64 = (1 << 20) as f64;
const KIB: f64 = 1024.0;
/// Time that a guest idles between two checkpoints.
const IDLE: Duration = Duration::from_millis(500);
/// Memory that the guest of which clones are made has touched, and what each clone writes.
const CLONE_MIB: u64 = 64;
const WRITTEN_FRAMES: u64 = 256;
/// Memory that a clone may take: what it writes, and half of that for copies of whole clusters.
const CLONE_BYTES_MAX: f64 = 1.5 * MIB;
/// Clones at either end that are compared.
const ENDS: usize = 10;

/// Measures, on ordinary pages.
///
/// # Errors
/// Something could not be done, or a clone's memory is wrong.
pub fn run(plan: &Plan, pool: &BenchPool, progress: &Progress) -> Result<Experiment, VmError> {
    let size = plan.sizes.last().copied().unwrap_or_default();
    progress.step(&format!(
        "space: checkpoints of an idle guest with {} touched",
        human_units::size(size)
    ))?;
    let (idle, idle_frames) = idle_checkpoints(pool, Techniques::default(), size, plan.repeat)?;
    let clones = clones(plan, pool, progress)?;
    let figures = Table {
        title: "Costs".into(),
        columns: ["what", "median (smallest..largest)"]
            .map(str::to_owned)
            .to_vec(),
        rows: vec![
            vec![
                "checkpoint of an idle guest, memory of the pool".into(),
                size_text(&idle),
            ],
            vec![
                format!(
                    "each of {} clones that write 1 MiB, memory of the pool",
                    plan.clones
                ),
                human_units::size(clones.each_bytes as u64),
            ],
            vec![
                "start of a clone, one after the other".into(),
                spread_text(&clones.start_us),
            ],
            vec![
                format!("start of {} clones at the same time, for each", plan.clones),
                human_units::time_us(clones.together_us / plan.clones as f64),
            ],
        ],
    };
    let mut targets = vec![];
    let kib: Vec<f64> = idle.iter().map(|bytes| bytes / KIB).collect();
    targets.extend(target("checkpoint of an idle guest", &kib, 100.0, " KiB"));
    targets.extend(target(
        "memory of a clone that writes 1 MiB",
        &[clones.each_bytes / MIB],
        CLONE_BYTES_MAX / MIB,
        " MiB",
    ));
    let ends = ENDS.min(plan.clones / 2);
    let (first, last) = (
        &clones.start_us[..ends],
        &clones.start_us[plan.clones - ends..],
    );
    targets.extend(target(
        "start of the last clones / of the first",
        &ratios(last, first),
        1.2,
        "x",
    ));
    Ok(Experiment {
        name: "space".into(),
        title: "What checkpoints and clones cost".into(),
        about: format!(
            "A guest with {} touched that has nothing to do is checkpointed again and again. Then \
             {} VMs are started from one snapshot of a guest \
             with {CLONE_MIB} MiB touched, as processes by `nvvmm restore --detach --paused`, one \
             after the other and all at once; each goes on, writes 1 MiB, \
             compares all of its memory, and is paused. Memory is what the pool takes of its \
             medium, {}.",
            human_units::size(size),
            plan.clones,
            pool.medium
        ),
        charts: vec![clones.chart()],
        tables: vec![figures],
        targets,
        limits: vec![
            "Memory of VM processes themselves (page tables, buffers) is not counted.".into(),
        ],
        frames_verified: clones.frames_verified + idle_frames,
        run: None,
    })
}

/// Bytes by which the pool grows with each checkpoint of a guest that does nothing, and frames that
/// were verified.
pub(super) fn idle_checkpoints(
    pool: &BenchPool,
    techniques: Techniques,
    size: u64,
    repeat: usize,
) -> Result<(Vec<f64>, u64), VmError> {
    let mut guest = pool.boot_with(techniques, size)?;
    guest.fill(size, SEED)?;
    // With digests, which otherwise are made, and stored, during what follows.
    guest.snapshot_with_digests("idle-0")?;
    thread::sleep(IDLE);
    let mut grown = Vec::new();
    for turn in 1..=repeat {
        let before = pool.medium_bytes()?;
        guest.snapshot_with_digests(&format!("idle-{turn}"))?;
        thread::sleep(IDLE);
        grown.push(pool.medium_bytes()?.saturating_sub(before) as f64);
    }
    let frames = guest.verify()?;
    drop(guest);
    for turn in 0..=repeat {
        pool.remove(&format!("idle-{turn}"))?;
    }
    Ok((grown, frames))
}

/// Measurements of clones.
struct Found {
    start_us: Vec<f64>,
    together_us: f64,
    each_bytes: f64,
    frames_verified: u64,
}

fn clones(plan: &Plan, pool: &BenchPool, progress: &Progress) -> Result<Found, VmError> {
    let size = (CLONE_MIB << 20).min(plan.sizes.last().copied().unwrap_or_default());
    let mut guest = pool.boot(size)?;
    guest.fill(size, SEED)?;
    guest.snapshot_with_digests("base")?;
    drop(guest);
    progress.step(&format!(
        "space: {} clones, one after the other",
        plan.clones
    ))?;
    let before = pool.medium_bytes()?;
    let mut clones = Clones::of(pool, "base")?;
    let mut start_us = Vec::new();
    for _ in 0..plan.clones {
        progress.go_on()?;
        start_us.push(clones.start_one()?);
    }
    let frames_verified = clones.write_and_verify(WRITTEN_FRAMES.min(size / 4096))?;
    let grown = pool.medium_bytes()?.saturating_sub(before);
    clones.end()?;
    progress.step(&format!("space: {} clones at the same time", plan.clones))?;
    let mut clones = Clones::of(pool, "base")?;
    let together_us = clones.start_together(plan.clones)?;
    clones.end()?;
    pool.remove("base")?;
    Ok(Found {
        start_us,
        together_us,
        each_bytes: grown as f64 / plan.clones as f64,
        frames_verified,
    })
}

impl Found {
    fn chart(&self) -> Chart {
        let mut series = Series {
            name: "nvvmm restore".into(),
            points: Vec::new(),
        };
        for (number, us) in self.start_us.iter().enumerate() {
            series.add((number + 1) as f64, us / 1000.0);
        }
        Chart {
            stacks: Vec::new(),
            file: "clones".into(),
            title: "Starting one more clone of a snapshot".into(),
            x: Axis::linear("number of the clone"),
            y: Axis::linear("time of the command (ms)"),
            series: vec![series],
        }
    }
}

fn target(what: &str, measured: &[f64], at_most: f64, unit: &str) -> Option<Target> {
    Some(Target {
        what: what.into(),
        wanted: Bound::AtMost(at_most),
        measured: Spread::of(measured)?,
        unit: unit.into(),
    })
}

fn spread_text(us: &[f64]) -> String {
    Spread::of(us).map_or_else(|| "-".into(), time_text)
}

pub(super) fn size_text(bytes: &[f64]) -> String {
    let of = |bytes: f64| human_units::size(bytes as u64);
    Spread::of(bytes).map_or_else(
        || "-".into(),
        |spread| {
            format!(
                "{} ({}..{})",
                of(spread.median),
                of(spread.min),
                of(spread.max)
            )
        },
    )
}

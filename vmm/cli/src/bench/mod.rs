//! `nvvmm bench`: measures checkpoints and restarts on this host, beside the classic way and in one
//! run, and draws them.
//!
//! A [`Plan`] says what is measured. Each experiment drives VMs with the bare-metal guest in pools
//! of its own and gives back an [`report::Experiment`]; the [`Report`] of all is JSON, from which
//! text, plots and docs/performance.md are made.

mod bench_pool;
mod bill;
mod clones;
mod clusters;
mod commands;
mod console;
mod copied;
mod cow;
pub mod csv;
mod gaps;
mod guest;
pub mod host;
mod incremental;
pub mod load;
mod mapped;
mod mappings;
pub mod markdown;
mod observed;
mod paper;
mod plan;
pub mod plot;
mod plot_bars;
mod progress;
mod rate;
pub mod report;
mod rewind;
mod rewinds;
mod space;
mod sparse;
mod sparse_writes;
pub mod statistics;
mod techniques;
pub mod text;
mod walk;
mod warm_up;
mod writes;

use std::time::SystemTime;

use nvvmm::{ErrorKind, VmError};

pub use host::check_directories;
pub use plan::{ExperimentKind, Plan};
pub use progress::Progress;
pub use report::Report;

use self::{bench_pool::BenchPool, host::HostFacts, load::HostLoad, report::Experiment};
use crate::{human_units, message};

/// Part of the pages of a hugetlbfs that is kept for files beside the pool, as a divisor.
const FOR_FILES: u64 = 6;

/// Does all that a plan asks for. The report names the experiments that failed among several.
///
/// # Errors
/// The only experiment failed: something could not be done, or a guest's memory is wrong. The user
/// has interrupted the run.
pub fn run(plan: &Plan, mut left_out: Vec<String>, progress: &Progress) -> Result<Report, VmError> {
    let began_ns = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_nanos() as u64);
    let load = HostLoad::look();
    if let Some(warning) = load.warning() {
        message::warn(&warning);
    }
    let pools = pools(plan, &mut left_out, progress)?;
    let (mut experiments, mut failed) = (Vec::new(), Vec::new());
    for kind in &plan.experiments {
        match experiment(*kind, plan, &pools, progress) {
            Ok(experiment) => experiments.push(experiment),
            // What was measured before it is worth having: it took minutes.
            Err(error) if progress.go_on().is_ok() && plan.experiments.len() > 1 => {
                let why = format!("{}: {error}", kind.name());
                progress.step(&why)?;
                failed.push(why);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Report {
        nvvmm: env!("CARGO_PKG_VERSION").into(),
        began: human_units::moment(began_ns),
        took_s: progress.took_s(),
        host: HostFacts {
            load: Some(load),
            ..HostFacts::gather()
        },
        method: method(plan, &pools),
        experiments,
        left_out,
        failed,
    })
}

fn experiment(
    kind: ExperimentKind,
    plan: &Plan,
    pools: &[BenchPool],
    progress: &Progress,
) -> Result<Experiment, VmError> {
    match kind {
        ExperimentKind::Paper => paper::run(plan, pools, progress),
        ExperimentKind::Incremental => incremental::run(plan, pools, progress),
        ExperimentKind::Bill => bill::run(plan, pools, progress),
        ExperimentKind::WarmUp => warm_up::run(plan, pools, progress),
        ExperimentKind::Gaps => gaps::run(plan, pools, progress),
        ExperimentKind::Cow => cow::run(plan, pools, progress),
        ExperimentKind::Clusters => clusters::run(plan, pools, progress),
        ExperimentKind::Mappings => mappings::run(plan, &pools[0], progress),
        ExperimentKind::Rate => rate::run(plan, pools, progress),
        ExperimentKind::Rewind => rewind::run(plan, pools, progress),
        ExperimentKind::Techniques => techniques::run(plan, pools, progress),
        ExperimentKind::Space => space::run(plan, &pools[0], progress),
        ExperimentKind::Sparse => sparse::run(plan, &pools[0], progress),
    }
}

/// Memory of guests of `largest` bytes that a pool should have room for.
fn room_wanted(plan: &Plan, largest: u64) -> u64 {
    let mut wanted = 2 * largest;
    if plan.experiments.contains(&ExperimentKind::Bill) {
        // The guest writes all the time, also between a checkpoint's instant and its commit. Until
        // then the checkpoint before is kept, too.
        wanted = 3 * largest;
    }
    if plan.experiments.contains(&ExperimentKind::Gaps) {
        // Several VMs.
        wanted = wanted.max(largest / 8 * gaps::ROOM_EIGHTHS + 4 * bench_pool::GUEST_SLACK_BYTES);
    }
    wanted
}

/// The pools that are measured, the one on ordinary pages first, their memory warm.
fn pools(
    plan: &Plan,
    left_out: &mut Vec<String>,
    progress: &Progress,
) -> Result<Vec<BenchPool>, VmError> {
    let largest = plan.sizes.last().copied().unwrap_or_default() + bench_pool::GUEST_SLACK_BYTES;
    let mut pools = Vec::new();
    for dir in std::iter::once(&plan.dir).chain(&plan.huge_dirs) {
        let medium = host::medium_of(dir);
        let mut room_bytes = bench_pool::room_bytes(dir)?;
        if medium == "hugetlbfs" {
            // A pool has all of its pages there, and the classic way needs some for its files.
            room_bytes -= room_bytes / FOR_FILES;
        }
        let memory_bytes = room_wanted(plan, largest).min(bench_pool::memory_in_pool(room_bytes));
        if memory_bytes < largest {
            left_out.push(format!(
                "{}, on {medium}: there is no room for a guest of {}.",
                dir.display(),
                human_units::size(largest)
            ));
            continue;
        }
        if medium == "hugetlbfs" {
            // These pages stay where they are when they are free.
            progress.step(&format!("warming memory on {medium}"))?;
            bench_pool::warm(dir, memory_bytes)?;
        }
        pools.push(BenchPool::make(dir, memory_bytes, &plan.guest, plan.vcpus)?);
    }
    if plan.huge_dirs.is_empty() {
        left_out.push(
            "Huge pages: no directory on them was given (--huge-dir; scripts/bench.sh makes some)."
                .into(),
        );
    }
    if pools.is_empty() {
        return Err(VmError::new(ErrorKind::PoolFull, left_out.join(" "))
            .with_remedy("give smaller --sizes"));
    }
    Ok(pools)
}

fn method(plan: &Plan, pools: &[BenchPool]) -> Vec<String> {
    let media: Vec<&str> = pools.iter().map(|pool| pool.medium.as_str()).collect();
    vec![
        format!(
            "Each figure is the median of {} repetitions, with the smallest and the largest. A \
             ratio is made of two measurements of the \
             same repetition; its median and spread are those of these ratios.",
            plan.repeat
        ),
        format!(
            "Guests have {} vCPUs and run nvvmm's bare-metal test guest. VMs are built, \
             snapshotted and restored in the benchmark's own \
             process by the code that the commands run.",
            plan.vcpus
        ),
        format!("Pools are on: {}.", media.join("; ")),
        "Memory is touched, and given back, right before whatever is measured that takes fresh \
         memory: under a hypervisor a page that the \
         host has never used, or has taken back while it was free, costs some microseconds, \
         whoever touches it."
            .into(),
    ]
}

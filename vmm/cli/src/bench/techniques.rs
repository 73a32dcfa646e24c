//! Gain of each technique of the engine: the same measurement with and without it.

use nvvmm::{
    VmError,
    cow::{CopyPolicy, Techniques},
};

use super::{
    bench_pool::BenchPool,
    observed::time_text,
    plan::Plan,
    progress::Progress,
    report::{Experiment, Table},
    space::{idle_checkpoints, size_text},
    statistics::{Spread, ratios},
    writes::Writes,
};
use crate::human_units;

const SEED: u64 = 37;
/// Memory that is touched, at most.
const SIZE_MAX: u64 = 512 << 20;
/// The part of it that is written epoch after epoch, at most.
const WORKING_SET_MAX: u64 = 16 << 20;
/// Epochs of a working set; the later half counts.
const EPOCHS: u32 = 40;
/// Checkpoints of an idle guest; the last one counts.
const IDLE_CHECKPOINTS: usize = 4;

/// Microseconds or bytes, and frames that were verified.
type Measure = fn(&BenchPool, u64, Techniques) -> Result<(f64, u64), VmError>;

/// A technique, and what it is for.
struct Trial {
    name: &'static str,
    figure: &'static str,
    without: Techniques,
    measure: Measure,
    text: fn(&[f64]) -> String,
    /// Only where copies are made in clusters of pages.
    clusters_only: bool,
}

/// Result of a trial on one pool.
struct Shown {
    without: Vec<f64>,
    with: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let size = plan.sizes.last().copied().unwrap_or_default().min(SIZE_MAX);
    let mut rows = Vec::new();
    let mut frames_verified = 0;
    for trial in trials() {
        for pool in pools {
            // Elsewhere it is the host's kernel that copies on write.
            if !(pool.copies_clusters() || pool.has_huge_pages() && !trial.clusters_only) {
                continue;
            }
            let mut shown = Shown {
                without: Vec::new(),
                with: Vec::new(),
            };
            for turn in 1..=plan.repeat {
                progress.step(&format!(
                    "techniques: {} on {}, {turn} of {}",
                    trial.name, pool.medium, plan.repeat
                ))?;
                for (techniques, times) in [
                    (trial.without, &mut shown.without),
                    (Techniques::default(), &mut shown.with),
                ] {
                    let (us, frames) = (trial.measure)(pool, size, techniques)?;
                    times.push(us);
                    frames_verified += frames;
                }
            }
            rows.push(row(&trial, pool, &shown));
        }
    }
    Ok(Experiment {
        name: "techniques".into(),
        title: "What each technique is worth".into(),
        about: format!(
            "The same guest, with a technique switched off and as usual, in turns. A guest with \
             {} touched is paused for its first checkpoint; it rewrites {} at \
             random, is checkpointed, and so on, {EPOCHS} times, of which the later half counts; \
             it rewrites all of its memory in a row after a checkpoint; it idles. The guest \
             compares all of its memory at the end. Huge pages and lazy restores are in the \
             paper's experiments, above.",
            human_units::size(size),
            human_units::size(size.min(WORKING_SET_MAX))
        ),
        charts: Vec::new(),
        limits: limits(&rows),
        tables: tables(rows),
        targets: Vec::new(),
        frames_verified,
        run: None,
    })
}

fn tables(rows: Vec<Vec<String>>) -> Vec<Table> {
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = [
        "technique",
        "pool",
        "what is measured",
        "without",
        "with",
        "without / with",
    ];
    vec![Table {
        title: "Without a technique and with it".into(),
        columns: columns.map(str::to_owned).to_vec(),
        rows,
    }]
}

fn limits(rows: &[Vec<String>]) -> Vec<String> {
    let nothing =
        "On these pools the host's kernel copies on write: there is nothing to switch off.";
    let limit = rows.is_empty().then(|| nothing.to_owned());
    limit.into_iter().collect()
}

fn trials() -> [Trial; 4] {
    let all = Techniques::default();
    [
        Trial {
            name: "arming ahead of the pause",
            figure: "pause of the first checkpoint",
            without: Techniques {
                arm_ahead: false,
                ..all
            },
            measure: first_pause,
            text: times_text,
            clusters_only: true,
        },
        Trial {
            name: "copies of hot frames ahead",
            figure: "a written frame of a stable working set",
            without: Techniques {
                copy_hot: false,
                ..all
            },
            measure: stable_working_set,
            text: times_text,
            clusters_only: false,
        },
        Trial {
            name: "clusters that grow",
            figure: "a written frame, all in a row",
            without: Techniques {
                copy_policy: CopyPolicy {
                    clusters_grow: false,
                    ..all.copy_policy
                },
                ..all
            },
            measure: all_in_a_row,
            text: times_text,
            clusters_only: true,
        },
        Trial {
            name: "lone frames",
            figure: "a checkpoint of an idle guest",
            without: Techniques {
                copy_policy: CopyPolicy {
                    single_frames: false,
                    ..all.copy_policy
                },
                ..all
            },
            measure: idle_checkpoint,
            text: size_text,
            clusters_only: true,
        },
    ]
}

fn first_pause(pool: &BenchPool, size: u64, techniques: Techniques) -> Result<(f64, u64), VmError> {
    let mut guest = pool.boot_with(techniques, size)?;
    guest.fill(size, SEED)?;
    let pause_us = guest.snapshot("technique")?.pause_us;
    let frames = guest.verify()?;
    drop(guest);
    pool.remove("technique")?;
    Ok((pause_us, frames))
}

fn stable_working_set(
    pool: &BenchPool,
    size: u64,
    techniques: Techniques,
) -> Result<(f64, u64), VmError> {
    let mut guest = pool.boot_with(techniques, size)?;
    guest.fill(size, SEED)?;
    let command = format!("touch {} rand", size.min(WORKING_SET_MAX) >> 20);
    guest.snapshot("technique-0")?;
    let (mut us, mut frames) = (0.0, 0.0);
    for epoch in 1..=EPOCHS {
        let written = Writes::of(&mut guest, &command)?;
        if epoch > EPOCHS / 2 {
            us += written.us;
            frames += written.frames_written;
        }
        guest.snapshot(&format!("technique-{epoch}"))?;
        pool.remove(&format!("technique-{}", epoch - 1))?;
    }
    let verified = guest.verify()?;
    drop(guest);
    pool.remove(&format!("technique-{EPOCHS}"))?;
    Ok((us / frames, verified))
}

fn all_in_a_row(
    pool: &BenchPool,
    size: u64,
    techniques: Techniques,
) -> Result<(f64, u64), VmError> {
    let mut guest = pool.boot_with(techniques, size)?;
    guest.fill(size, SEED)?;
    guest.snapshot("technique")?;
    guest.ask(&format!("touch {} read", size >> 20))?;
    pool.warm(size)?;
    let written = Writes::of(&mut guest, &format!("touch {} seq", size >> 20))?;
    let frames = guest.verify()?;
    drop(guest);
    pool.remove("technique")?;
    Ok((written.us_each(), frames))
}

/// The last of a few, as it is found out what an idle guest writes.
fn idle_checkpoint(
    pool: &BenchPool,
    size: u64,
    techniques: Techniques,
) -> Result<(f64, u64), VmError> {
    let (bytes, frames) = idle_checkpoints(pool, techniques, size, IDLE_CHECKPOINTS)?;
    Ok((bytes.last().copied().unwrap_or_default(), frames))
}

fn times_text(times: &[f64]) -> String {
    Spread::of(times).map_or_else(|| "-".into(), time_text)
}

fn row(trial: &Trial, pool: &BenchPool, shown: &Shown) -> Vec<String> {
    let ratio = Spread::of(&ratios(&shown.without, &shown.with));
    vec![
        trial.name.into(),
        pool.medium.clone(),
        trial.figure.into(),
        (trial.text)(&shown.without),
        (trial.text)(&shown.with),
        ratio.map_or_else(
            || "-".into(),
            |ratio| format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max),
        ),
    ]
}

//! The worst pattern for the number of mappings: every other frame is written between two
//! checkpoints, those in between before the next, and so on.

use nvvmm::{
    VmError,
    cow::{CopyPolicy, Techniques},
};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    observed::time_text,
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Series, Table, Target},
    statistics::Spread,
    writes::Writes,
};
use crate::human_units;

const SEED: u64 = 37;
/// Memory that is written, at most.
const SIZE_MAX: u64 = 16 << 20;
/// Frames for each mapping of the budget: as many as a guest with 512 MiB has under the usual limit
/// of the kernel.
const FRAMES_PER_MAPPING: u64 = 4;
/// Checkpoints, at most, and for each MiB of the largest guest.
const EPOCHS_MAX: u64 = 2000;
const EPOCHS_PER_MIB: u64 = 4;
/// Epochs for each point of the curve.
const POINTS: usize = 50;

/// Result of one way of copying.
struct Course {
    name: &'static str,
    /// After each epoch.
    mappings: Vec<u64>,
    /// Mappings at the end of each epoch.
    writes: Vec<Writes>,
}

/// Measures, on ordinary pages.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pool: &BenchPool, progress: &Progress) -> Result<Experiment, VmError> {
    let largest = plan.sizes.last().copied().unwrap_or_default();
    let size = largest.min(SIZE_MAX);
    let epochs = EPOCHS_MAX.min((largest >> 20) * EPOCHS_PER_MIB);
    let budget = size / 4096 / FRAMES_PER_MAPPING;
    let mappings_max = Some(budget);
    let mut courses = Vec::new();
    let mut frames_verified = 0;
    for (name, policy) in [
        ("as usual", CopyPolicy::default()),
        ("single frames", CopyPolicy::fixed(1)),
    ] {
        progress.step(&format!("mappings: {epochs} checkpoints, {name}"))?;
        let policy = CopyPolicy {
            mappings_max,
            ..policy
        };
        let (course, verified) = one_course(pool, (name, policy), (size, epochs), progress)?;
        courses.push(course);
        frames_verified += verified;
    }
    Ok(Experiment {
        name: "mappings".into(),
        title: "The worst pattern for mappings".into(),
        about: format!(
            "A guest with {} touched dirties every other frame, is checkpointed, dirties those in \
             between, is checkpointed, and so on, {epochs} times, on {}. \
             Its memory may take {budget} mappings, one for {FRAMES_PER_MAPPING} frames, as a \
             guest with 512 MiB may under the kernel's usual limit. `as usual` is what \
             VMs do; `single frames` copies one frame for a fault as long as there are mappings \
             left, which is the worst that the pattern can do. The guest compares \
             all of its memory at the end, and so does one restored from the last checkpoint.",
            human_units::size(size),
            pool.medium
        ),
        charts: vec![chart(&courses, budget)],
        tables: vec![table(&courses, budget)],
        targets: courses
            .iter()
            .filter_map(|course| target(course, budget))
            .collect(),
        limits: vec![
            "The budget is made small, so that the pattern meets it with little memory, in many \
             epochs. The real one is half of vm.max_map_count."
                .into(),
        ],
        frames_verified,
        run: None,
    })
}

fn one_course(
    pool: &BenchPool,
    (name, policy): (&'static str, CopyPolicy),
    (size, epochs): (u64, u64),
    progress: &Progress,
) -> Result<(Course, u64), VmError> {
    let mut guest = pool.boot_with(
        Techniques {
            copy_policy: policy,
            // Each frame is written in every other epoch: it is never hot.
            copy_hot: false,
            ..Techniques::default()
        },
        size,
    )?;
    guest.fill(size, SEED)?;
    guest.snapshot("epoch-0")?;
    let mut course = Course {
        name,
        mappings: Vec::new(),
        writes: Vec::new(),
    };
    for epoch in 1..=epochs {
        progress.go_on()?;
        let half = if epoch % 2 == 0 { "even" } else { "odd" };
        let written = Writes::of(&mut guest, &format!("touch {} {half}", size >> 20))?;
        course.writes.push(written);
        course.mappings.push(guest.vm().engine.counters().mappings);
        guest.snapshot(&format!("epoch-{epoch}"))?;
        pool.remove(&format!("epoch-{}", epoch - 1))?;
    }
    let mut verified = guest.verify()?;
    drop(guest);
    let last = format!("epoch-{epochs}");
    verified += pool.restore(&last, RestoreKind::Lazy)?.verify()?;
    pool.remove(&last)?;
    Ok((course, verified))
}

impl Course {
    fn most(&self) -> u64 {
        self.mappings.iter().copied().max().unwrap_or_default()
    }

    fn spread(&self, figure: fn(&Writes) -> f64) -> Option<Spread> {
        Spread::of(&self.writes.iter().map(figure).collect::<Vec<_>>())
    }
}

fn chart(courses: &[Course], budget: u64) -> Chart {
    let line = |name: &str, values: &[u64]| {
        let mut series = Series {
            name: name.into(),
            points: Vec::new(),
        };
        // The most that there were since the point before.
        let step = values.len().div_ceil(POINTS).max(1);
        for (index, some) in values.chunks(step).enumerate() {
            let most = some.iter().copied().max().unwrap_or_default();
            series.add((index * step + some.len()) as f64, most as f64);
        }
        series
    };
    let mut series: Vec<Series> = courses
        .iter()
        .map(|course| line(course.name, &course.mappings))
        .collect();
    let epochs = courses
        .iter()
        .map(|course| course.mappings.len())
        .max()
        .unwrap_or(0);
    series.push(line("budget", &vec![budget; epochs]));
    Chart {
        stacks: Vec::new(),
        file: "mappings".into(),
        title: "Mappings while every other frame is written".into(),
        x: Axis::linear("checkpoints"),
        y: Axis::linear("mappings of guest memory"),
        series,
    }
}

fn table(courses: &[Course], budget: u64) -> Table {
    let rows = courses.iter().map(|course| {
        let number = |figure| {
            course
                .spread(figure)
                .map_or_else(|| "-".into(), |spread| format!("{:.2}", spread.median))
        };
        vec![
            course.name.to_owned(),
            course.most().to_string(),
            budget.to_string(),
            course
                .spread(Writes::us_each)
                .map_or_else(|| "-".into(), time_text),
            number(Writes::amplification),
            number(Writes::faults_each),
        ]
    });
    let columns = [
        "copied",
        "mappings, at most",
        "budget",
        "time of a dirtied frame",
        "copied / dirtied",
        "faults / dirtied",
    ];
    Table {
        title: "Mappings, and the price (medians of all epochs)".into(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

fn target(course: &Course, budget: u64) -> Option<Target> {
    Some(Target {
        what: format!(
            "mappings in the worst pattern, {}: part of the budget",
            course.name
        ),
        wanted: Bound::AtMost(1.0),
        measured: Spread::of(&[course.most() as f64 / budget as f64])?,
        unit: String::new(),
    })
}

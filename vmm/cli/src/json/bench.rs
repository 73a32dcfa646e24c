//! Report of the benchmark, as `bench --json` prints it and `bench --out` keeps it. It can be read
//! again: a report that was read shows the same tables and plots.

use nvvmm_snapshot::BLOCK_SIZE_BYTES;
use serde::{Deserialize, Serialize};

use super::{blocks_bytes, rfc3339};
use crate::bench::host::HostFacts;
use crate::bench::load::HostLoad;
use crate::bench::report::{
    Axis as ShownAxis, Bound, Chart as ShownChart, Experiment as ShownExperiment,
    Point as ShownPoint, Report, Series, Stack as ShownStack, Table as ShownTable,
    Target as ShownTarget,
};
use crate::bench::statistics::Spread;
use crate::human_units;

/// Parts that a unit has: numbers are whole, and so they count millionths of their unit.
const PARTS_PER_UNIT: u32 = 1_000_000;

/// Report of a run of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bench {
    /// Version of nvvmm.
    nvvmm_version: String,
    /// Time at which the run began, in UTC (RFC 3339).
    began: String,
    /// The same time in nanoseconds since 1970, as digits.
    began_unix_ns: String,
    /// Time that the run took.
    took_us: u64,
    /// Host of the run.
    host: Host,
    /// Method, as sentences.
    method: Vec<String>,
    /// Experiments that were run.
    experiments: Vec<Experiment>,
    /// Parts that were left out, and the reasons.
    left_out: Vec<String>,
    /// Experiments that failed, and the reasons.
    failed: Vec<String>,
}

/// Host of a run.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Host {
    /// Name of the processor.
    cpu: String,
    /// Number of CPUs.
    cpu_count: u64,
    /// Size of the memory.
    memory_bytes: u64,
    /// Release of the kernel.
    kernel: String,
    /// Kind of KVM.
    kvm: String,
    /// Load of the host before the run. Null in a report of an older nvvmm.
    #[serde(default)]
    load: Option<HostLoad>,
}

/// Experiment.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Experiment {
    /// Name of the experiment on the command line.
    experiment: String,
    /// Title.
    title: String,
    /// Description of the measurements.
    about: String,
    /// Charts.
    charts: Vec<Chart>,
    /// Tables, with texts for people.
    tables: Vec<Table>,
    /// Targets, and whether they are met.
    targets: Vec<Target>,
    /// Remarks on the figures.
    limits: Vec<String>,
    /// Memory of restored guests that was compared with what it must hold.
    verified_bytes: u64,
    /// Another run that it is of: its begin, and its host.
    #[serde(default)]
    run: Option<String>,
}

/// Curves in one coordinate system.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Chart {
    /// Name of its file, without an ending.
    file: String,
    /// Title.
    title: String,
    /// Horizontal axis.
    x_axis: Axis,
    /// Vertical axis.
    y_axis: Axis,
    /// Curves.
    curves: Vec<Curve>,
    /// Bars, side by side at each place, in place of the curves. Empty for a chart of curves.
    #[serde(default)]
    stacks: Vec<Stack>,
}

/// Bar of the medians of some curves, one on top of the other.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Stack {
    /// Name of the bar.
    stack: String,
    /// Names of its curves, the lowest first.
    curve_names: Vec<String>,
}

/// Axis of a chart.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Axis {
    /// Quantity, with its unit.
    label: String,
    /// Base of a logarithmic axis. Null for a linear one.
    log_base: Option<u32>,
    /// Names of the places 0, 1, 2 and so on. Empty where places are quantities.
    #[serde(default)]
    names: Vec<String>,
    /// Parts of the unit that the numbers on this axis count: 10847763 is 10.847763.
    parts_per_unit: u32,
}

/// Curve of a chart.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Curve {
    /// Name of the curve.
    curve: String,
    /// Points, from left to right.
    points: Vec<Point>,
}

/// Point of a curve.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Point {
    /// Place on the horizontal axis, in its parts.
    x_parts: i64,
    /// Measurements in their order, in parts of the vertical axis.
    measured_parts: Vec<i64>,
}

/// Table. The first column is text, the others are figures.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Table {
    /// Title.
    title: String,
    /// Names of the columns.
    columns: Vec<String>,
    /// Rows, with a cell for each column.
    rows: Vec<Vec<String>>,
}

/// Target and its result.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Target {
    /// Quantity.
    what: String,
    /// Unit. `x` is a ratio, and an empty text is a plain number.
    unit: String,
    /// Parts of the unit that the numbers count.
    parts_per_unit: u32,
    /// Side of the bound that is good.
    #[cfg_attr(test, schemars(extend("enum" = ["at_least", "at_most"])))]
    bound: String,
    /// Bound.
    wanted_parts: i64,
    /// Median of the measurements.
    median_parts: i64,
    /// The smallest measurement.
    min_parts: i64,
    /// The largest measurement.
    max_parts: i64,
    /// Number of measurements.
    measured_count: u64,
    /// True if the median is on the good side.
    met: bool,
}

fn parts(value: f64) -> i64 {
    (value * f64::from(PARTS_PER_UNIT)).round() as i64
}

fn units(parts: i64) -> f64 {
    parts as f64 / f64::from(PARTS_PER_UNIT)
}

/// Reads a kept report, also one from before there was a schema.
///
/// # Errors
/// The text is in neither form.
pub fn read(text: &[u8]) -> serde_json::Result<Report> {
    match serde_json::from_slice::<Bench>(text) {
        Ok(bench) => Ok(bench.report()),
        Err(error) => serde_json::from_slice(text).map_err(|_| error),
    }
}

impl Bench {
    /// JSON of a report.
    pub fn of(report: &Report) -> Self {
        let began_ns = humantime::parse_rfc3339_weak(&report.began)
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos() as u64);
        Self {
            nvvmm_version: report.nvvmm.clone(),
            began: rfc3339(began_ns),
            began_unix_ns: began_ns.to_string(),
            took_us: (report.took_s * 1e6).round() as u64,
            host: Host {
                cpu: report.host.cpu.clone(),
                cpu_count: report.host.cpus as u64,
                memory_bytes: report.host.memory_bytes,
                kernel: report.host.kernel.clone(),
                kvm: report.host.kvm.clone(),
                load: report.host.load,
            },
            method: report.method.clone(),
            experiments: report.experiments.iter().map(Experiment::of).collect(),
            left_out: report.left_out.clone(),
            failed: report.failed.clone(),
        }
    }

    /// The report that this is the JSON of.
    pub fn report(self) -> Report {
        Report {
            nvvmm: self.nvvmm_version,
            began: human_units::moment(self.began_unix_ns.parse().unwrap_or(0)),
            took_s: self.took_us as f64 / 1e6,
            host: HostFacts {
                cpu: self.host.cpu,
                cpus: self.host.cpu_count as usize,
                memory_bytes: self.host.memory_bytes,
                kernel: self.host.kernel,
                kvm: self.host.kvm,
                load: self.host.load,
            },
            method: self.method,
            experiments: { self.experiments.into_iter() }
                .map(Experiment::shown)
                .collect(),
            left_out: self.left_out,
            failed: self.failed,
        }
    }
}

impl Experiment {
    fn of(shown: &ShownExperiment) -> Self {
        Self {
            experiment: shown.name.clone(),
            title: shown.title.clone(),
            about: shown.about.clone(),
            charts: shown.charts.iter().map(Chart::of).collect(),
            tables: shown.tables.iter().map(Table::of).collect(),
            targets: shown.targets.iter().map(Target::of).collect(),
            limits: shown.limits.clone(),
            verified_bytes: blocks_bytes(shown.frames_verified),
            run: shown.run.clone(),
        }
    }

    fn shown(self) -> ShownExperiment {
        ShownExperiment {
            name: self.experiment,
            title: self.title,
            about: self.about,
            charts: self.charts.into_iter().map(Chart::shown).collect(),
            tables: self.tables.into_iter().map(Table::shown).collect(),
            targets: self.targets.into_iter().map(Target::shown).collect(),
            limits: self.limits,
            frames_verified: self.verified_bytes / BLOCK_SIZE_BYTES,
            run: self.run,
        }
    }
}

impl Chart {
    fn of(shown: &ShownChart) -> Self {
        Self {
            file: shown.file.clone(),
            title: shown.title.clone(),
            x_axis: Axis::of(&shown.x),
            y_axis: Axis::of(&shown.y),
            curves: shown.series.iter().map(Curve::of).collect(),
            stacks: shown.stacks.iter().map(Stack::of).collect(),
        }
    }

    fn shown(self) -> ShownChart {
        ShownChart {
            file: self.file,
            title: self.title,
            x: self.x_axis.shown(),
            y: self.y_axis.shown(),
            series: self.curves.into_iter().map(Curve::shown).collect(),
            stacks: self.stacks.into_iter().map(Stack::shown).collect(),
        }
    }
}

impl Stack {
    fn of(shown: &ShownStack) -> Self {
        Self {
            stack: shown.name.clone(),
            curve_names: shown.series.clone(),
        }
    }

    fn shown(self) -> ShownStack {
        ShownStack {
            name: self.stack,
            series: self.curve_names,
        }
    }
}

impl Axis {
    fn of(shown: &ShownAxis) -> Self {
        Self {
            label: shown.label.clone(),
            log_base: shown.base.map(|base| base.round() as u32),
            names: shown.names.clone(),
            parts_per_unit: PARTS_PER_UNIT,
        }
    }

    fn shown(self) -> ShownAxis {
        ShownAxis {
            label: self.label,
            base: self.log_base.map(f64::from),
            names: self.names,
        }
    }
}

impl Curve {
    fn of(shown: &Series) -> Self {
        let point = |point: &ShownPoint| Point {
            x_parts: parts(point.x),
            measured_parts: point.measured.iter().copied().map(parts).collect(),
        };
        Self {
            curve: shown.name.clone(),
            points: shown.points.iter().map(point).collect(),
        }
    }

    fn shown(self) -> Series {
        let point = |point: Point| ShownPoint {
            x: units(point.x_parts),
            measured: point.measured_parts.into_iter().map(units).collect(),
        };
        Series {
            name: self.curve,
            points: self.points.into_iter().map(point).collect(),
        }
    }
}

impl Table {
    fn of(shown: &ShownTable) -> Self {
        Self {
            title: shown.title.clone(),
            columns: shown.columns.clone(),
            rows: shown.rows.clone(),
        }
    }

    fn shown(self) -> ShownTable {
        ShownTable {
            title: self.title,
            columns: self.columns,
            rows: self.rows,
        }
    }
}

impl Target {
    fn of(shown: &ShownTarget) -> Self {
        let (bound, wanted) = match shown.wanted {
            Bound::AtLeast(bound) => ("at_least", bound),
            Bound::AtMost(bound) => ("at_most", bound),
        };
        Self {
            what: shown.what.clone(),
            unit: shown.unit.trim().to_owned(),
            parts_per_unit: PARTS_PER_UNIT,
            bound: bound.to_owned(),
            wanted_parts: parts(wanted),
            median_parts: parts(shown.measured.median),
            min_parts: parts(shown.measured.min),
            max_parts: parts(shown.measured.max),
            measured_count: shown.measured.count as u64,
            met: shown.is_met(),
        }
    }

    fn shown(self) -> ShownTarget {
        let wanted = units(self.wanted_parts);
        ShownTarget {
            what: self.what,
            wanted: match self.bound.as_str() {
                "at_most" => Bound::AtMost(wanted),
                _ => Bound::AtLeast(wanted),
            },
            measured: Spread {
                median: units(self.median_parts),
                min: units(self.min_parts),
                max: units(self.max_parts),
                count: self.measured_count as usize,
            },
            // A name of a unit is apart from its number, a sign is not.
            unit: match self.unit.as_str() {
                "" | "x" | "%" => self.unit,
                name => format!(" {name}"),
            },
        }
    }
}

#[cfg(test)]
#[path = "bench_test.rs"]
mod bench_test;

//! Results of a run of the benchmark: JSON, from which come the tables, plots and
//! docs/performance.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{host::HostFacts, statistics::Spread};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub nvvmm: String,
    /// Time at which the run began, in UTC.
    pub began: String,
    /// Duration of the run, in seconds.
    pub took_s: f64,
    /// Host that the run was on.
    pub host: HostFacts,
    /// Method, one sentence each.
    pub method: Vec<String>,
    /// Experiments that were run.
    pub experiments: Vec<Experiment>,
    /// Parts that were left out, and why.
    pub left_out: Vec<String>,
    /// Experiments that failed, and why.
    #[serde(default)]
    pub failed: Vec<String>,
}

impl Report {
    /// This report with those experiments of an earlier one that it does not have itself. The
    /// method says which experiments were measured when.
    pub fn merged_into(self, earlier: Self) -> Self {
        let names: Vec<&str> = self.names().collect();
        let is_new = |experiment: &Experiment| names.contains(&experiment.name.as_str());
        let run = earlier.run();
        // Of runs before that one, too.
        let mut runs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for kept in earlier.experiments.iter().filter(|one| !is_new(one)) {
            let run = kept.run.as_ref().unwrap_or(&run);
            runs.entry(run.clone()).or_default().push(kept.name.clone());
        }
        let has_failed = |why: &&String| !names.iter().any(|name| why.starts_with(*name));
        let failed = earlier.failed.iter().filter(has_failed).cloned();
        let mut merged = Self {
            failed: self.failed.iter().cloned().chain(failed).collect(),
            ..self.clone()
        };
        merged.took_s += earlier.took_s;
        for (run, names) in runs {
            let names = names.join(", ");
            merged
                .method
                .push(format!("Measured in another run: {names}. It began {run}."));
        }
        let left_out = earlier.left_out.into_iter();
        let left_out = left_out.filter(|what| !self.left_out.contains(what));
        merged.left_out.extend(left_out);
        // Where an earlier one was, its successor is.
        let mut new = self.experiments;
        merged.experiments.clear();
        for mut experiment in earlier.experiments {
            experiment.run.get_or_insert_with(|| run.clone());
            let found = new.iter().position(|one| one.name == experiment.name);
            let next = found.map_or(experiment, |index| new.remove(index));
            merged.experiments.push(next);
        }
        merged.experiments.extend(new);
        merged
    }

    /// Begin of the run, and its host.
    fn run(&self) -> String {
        let HostFacts {
            cpu, cpus, kernel, ..
        } = &self.host;
        format!("{} UTC, on {cpu}, {cpus} CPUs, Linux {kernel}", self.began)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.experiments.iter().map(|one| one.name.as_str())
    }
}

/// One experiment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Experiment {
    /// Name of the experiment on the command line.
    pub name: String,
    /// Title.
    pub title: String,
    /// Description of the measurements.
    pub about: String,
    /// Curves.
    pub charts: Vec<Chart>,
    /// Figures.
    pub tables: Vec<Table>,
    /// Targets.
    pub targets: Vec<Target>,
    /// Remarks on the figures.
    pub limits: Vec<String>,
    /// Frames of guest memory that were compared with what they must hold after a restore.
    pub frames_verified: u64,
    /// Another run that it is of: its begin, and its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// Curves in one coordinate system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chart {
    /// Name of its file, without an ending.
    pub file: String,
    /// Title.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
    /// Bars, side by side at each place, in place of curves. Empty for a chart of curves.
    #[serde(default)]
    pub stacks: Vec<Stack>,
}

/// A bar of the medians of some series, one on top of the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stack {
    /// Name of the bar.
    pub name: String,
    /// Names of its series, the lowest first.
    pub series: Vec<String>,
}

/// One direction of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Axis {
    /// Quantity, with its unit.
    pub label: String,
    /// Equal distances are equal factors, and marks are powers of this; without it they are equal
    /// differences.
    pub base: Option<f64>,
    /// Names of the places 0, 1, 2 and so on, if these are no quantities.
    #[serde(default)]
    pub names: Vec<String>,
}

impl Axis {
    /// On which equal distances are equal factors, marked at powers of `base` or their roots.
    pub fn logarithmic(label: &str, base: f64) -> Self {
        Self {
            label: label.into(),
            base: Some(base),
            names: Vec::new(),
        }
    }

    /// On which equal distances are equal differences.
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.into(),
            base: None,
            names: Vec::new(),
        }
    }

    /// With a name for each of the places 0, 1, 2 and so on.
    pub fn named(label: &str, names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
            ..Self::linear(label)
        }
    }

    /// BenchPool of a value on the axis.
    pub fn place(&self, value: f64) -> f64 {
        self.base.map_or(value, |base| value.log(base))
    }

    /// Value at a place of the axis.
    pub fn value(&self, place: f64) -> f64 {
        self.base.map_or(place, |base| base.powf(place))
    }
}

/// A curve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Name of the series.
    pub name: String,
    /// Points, from left to right.
    pub points: Vec<Point>,
}

/// One place of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// BenchPool on the horizontal axis.
    pub x: f64,
    /// Measurements, in the order in which they were made.
    pub measured: Vec<f64>,
}

impl Series {
    /// Measurements at `x`.
    pub fn at(&self, x: f64) -> &[f64] {
        let found = self.points.iter().find(|point| point.x == x);
        found.map_or(&[], |point| &point.measured)
    }

    /// Adds a measurement at `x`.
    pub fn add(&mut self, x: f64, measured: f64) {
        match self.points.iter_mut().find(|point| point.x == x) {
            Some(point) => point.measured.push(measured),
            None => {
                let place = self.points.partition_point(|point| point.x < x);
                let measured = vec![measured];
                self.points.insert(place, Point { x, measured });
            }
        }
    }
}

/// A table; the first column is text, the others are figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Title.
    pub title: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Rows, each with one cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// A target, and the result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Quantity.
    pub what: String,
    /// Bound of the quantity.
    pub wanted: Bound,
    /// Measured values.
    pub measured: Spread,
    /// Unit of both, after the number: `x`, ` ms`.
    pub unit: String,
}

/// Bound: the good side of a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Target {
    /// Tells if the median is on the good side.
    pub fn is_met(&self) -> bool {
        match self.wanted {
            Bound::AtLeast(bound) => self.measured.median >= bound,
            Bound::AtMost(bound) => self.measured.median <= bound,
        }
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod report_test;

//! What a run of the benchmark found; JSON, and the source of tables, plots and
//! docs/performance.md.

use serde::{Deserialize, Serialize};

use super::{host::HostFacts, statistics::Spread};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub nvvmm: String,
    /// When it began, in UTC.
    pub began: String,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// What it ran on.
    pub host: HostFacts,
    /// How it measured, one sentence each.
    pub method: Vec<String>,
    /// What was measured.
    pub experiments: Vec<Experiment>,
    /// What was not, and why.
    pub left_out: Vec<String>,
    /// Experiments that failed, and why.
    #[serde(default)]
    pub failed: Vec<String>,
}

/// One experiment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Experiment {
    /// Its name on the command line.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// What is done.
    pub about: String,
    /// Curves.
    pub charts: Vec<Chart>,
    /// Figures.
    pub tables: Vec<Table>,
    /// What was hoped for.
    pub targets: Vec<Target>,
    /// What the figures do not say.
    pub limits: Vec<String>,
    /// Frames of guest memory that were compared with what they must hold after a restore.
    pub frames_verified: u64,
}

/// Curves in one coordinate system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chart {
    /// Name of its file, without an ending.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// What goes to the right.
    pub x: Axis,
    /// What goes up.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
}

/// One direction of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Axis {
    /// What it counts, with the unit.
    pub label: String,
    /// Equal distances are equal factors, and marks are powers of this; without it they are equal
    /// differences.
    pub base: Option<f64>,
}

impl Axis {
    /// On which equal distances are equal factors, marked at powers of `base` or their roots.
    pub fn logarithmic(label: &str, base: f64) -> Self {
        Self {
            label: label.into(),
            base: Some(base),
        }
    }

    /// On which equal distances are equal differences.
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.into(),
            base: None,
        }
    }

    /// Where a value is on it.
    pub fn place(&self, value: f64) -> f64 {
        self.base.map_or(value, |base| value.log(base))
    }

    /// What is at a place of it.
    pub fn value(&self, place: f64) -> f64 {
        self.base.map_or(place, |base| base.powf(place))
    }
}

/// A curve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// What it is of.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// One place of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Where it is to the right.
    pub x: f64,
    /// What was measured, in the order in which it was.
    pub measured: Vec<f64>,
}

impl Series {
    /// What was measured at `x`.
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
    /// What it shows.
    pub title: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Its rows, as long as the columns are many.
    pub rows: Vec<Vec<String>>,
}

/// What was hoped for, and what was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// What is looked at.
    pub what: String,
    /// What it should be.
    pub wanted: Bound,
    /// What it is.
    pub measured: Spread,
    /// Unit of both, after the number: `x`, ` ms`.
    pub unit: String,
}

/// Which side of a number is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Target {
    /// Whether the median is on the good side.
    pub fn is_met(&self) -> bool {
        match self.wanted {
            Bound::AtLeast(bound) => self.measured.median >= bound,
            Bound::AtMost(bound) => self.measured.median <= bound,
        }
    }
}

//! Timed operations of an experiment: collected, then shown as curves, tables and ratios.

use nvvmm::checkpoint::report::PhaseTime;

use super::{
    report::{Bound, Series, Table, Target},
    statistics::{Spread, ratios},
};
use crate::human_units;

/// One timed operation.
#[derive(Clone, Debug)]
struct Observation {
    series: String,
    x: f64,
    us: f64,
    phases: Vec<PhaseTime>,
}

/// All of one kind, in the order in which they were measured.
#[derive(Clone, Debug, Default)]
pub struct Observations(Vec<Observation>);

impl Observations {
    /// Adds one.
    pub fn add(&mut self, series: &str, x: f64, us: f64, phases: &[PhaseTime]) {
        self.0.push(Observation {
            series: series.into(),
            x,
            us,
            phases: phases.to_vec(),
        });
    }

    /// Converts to curves, with times in milliseconds.
    pub fn curves(&self) -> Vec<Series> {
        let mut curves: Vec<Series> = Vec::new();
        for seen in &self.0 {
            let found = curves.iter().position(|curve| curve.name == seen.series);
            let index = found.unwrap_or_else(|| {
                curves.push(Series {
                    name: seen.series.clone(),
                    points: Vec::new(),
                });
                curves.len() - 1
            });
            curves[index].add(seen.x, seen.us / 1000.0);
        }
        curves
    }

    /// Times in microseconds of one series at `x`.
    pub fn times_us(&self, series: &str, x: f64) -> Vec<f64> {
        let those = self
            .0
            .iter()
            .filter(|seen| seen.series == series && seen.x == x);
        those.map(|seen| seen.us).collect()
    }

    /// Times of all series, a row for each place, which `name_x` names.
    pub fn times(&self, title: &str, x_name: &str, name_x: impl Fn(f64) -> String) -> Table {
        let curves = self.curves();
        let cell = |curve: &Series, x| {
            let us: Vec<f64> = curve.at(x).iter().map(|ms| ms * 1000.0).collect();
            Spread::of(&us).map_or_else(|| "-".into(), time_text)
        };
        let rows = self.places().into_iter().map(|x| {
            let cells = curves.iter().map(|curve| cell(curve, x));
            std::iter::once(name_x(x)).chain(cells).collect()
        });
        Table {
            title: title.into(),
            columns: columns(x_name, &curves),
            rows: rows.collect(),
        }
    }

    /// Table of the time at `x` by phase: the median of each phase, for each series.
    pub fn phases(&self, title: &str, x: f64) -> Table {
        let curves: Vec<Series> = self
            .curves()
            .into_iter()
            .filter(|curve| !curve.at(x).is_empty())
            .collect();
        let mut names: Vec<&str> = Vec::new();
        for phase in self
            .0
            .iter()
            .filter(|seen| seen.x == x)
            .flat_map(|seen| &seen.phases)
        {
            if !names.contains(&phase.phase.as_str()) {
                names.push(&phase.phase);
            }
        }
        let rows = names.into_iter().map(|name| {
            let cells = curves.iter().map(|curve| {
                Spread::of(&self.phase_us(&curve.name, x, name))
                    .map_or_else(|| "-".into(), |us| time(us.median))
            });
            std::iter::once(name.to_owned()).chain(cells).collect()
        });
        Table {
            title: title.into(),
            columns: columns("phase", &curves),
            rows: rows.collect(),
        }
    }

    /// Times in microseconds of one phase of one series at `x`.
    pub fn phase_us(&self, series: &str, x: f64, phase: &str) -> Vec<f64> {
        let those = self
            .0
            .iter()
            .filter(|seen| seen.series == series && seen.x == x);
        those
            .filter_map(|seen| Some(seen.phases.iter().find(|timed| timed.phase == phase)?.us))
            .collect()
    }

    /// Target: the ratio of `slow` to `fast` at `x` should reach a bound; `None` where one was
    /// not measured.
    pub fn target(
        &self,
        what: &str,
        (slow, fast): (&str, &str),
        x: f64,
        wanted: f64,
    ) -> Option<Target> {
        let measured = Spread::of(&ratios(&self.times_us(slow, x), &self.times_us(fast, x)))?;
        Some(Target {
            what: what.into(),
            wanted: Bound::AtLeast(wanted),
            measured,
            unit: "x".into(),
        })
    }

    /// Places at which something was measured, from left to right.
    pub fn places(&self) -> Vec<f64> {
        let mut places: Vec<f64> = self.0.iter().map(|seen| seen.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        places
    }
}

fn columns(first: &str, curves: &[Series]) -> Vec<String> {
    let names = curves.iter().map(|curve| curve.name.clone());
    std::iter::once(first.to_owned()).chain(names).collect()
}

/// `1.24 ms (1.20 ms..1.31 ms)`, or the time alone where there is only one.
pub fn time_text(us: Spread) -> String {
    let median = time(us.median);
    if us.count < 2 {
        return median;
    }
    format!("{median} ({}..{})", time(us.min), time(us.max))
}

/// A size as it is in titles: `512 MiB`.
pub fn size_name(bytes: u64) -> String {
    human_units::size(bytes).replace(".0 ", " ")
}

/// A few microseconds have digits behind the point here, as times of single frames are compared.
fn time(us: f64) -> String {
    if us < 10.0 {
        format!("{us:.2} µs")
    } else {
        human_units::time_us(us)
    }
}

#[cfg(test)]
#[path = "observed_test.rs"]
mod observed_test;

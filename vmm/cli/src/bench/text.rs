//! A report as text for a terminal.

use super::{
    report::{Bound, Report, Table, Target},
    statistics::Spread,
};
use crate::human_units::{self, Column};

/// The whole report.
pub fn text(report: &Report) -> String {
    let warning = report.host.load.and_then(|load| load.warning());
    let warning = warning.map(|warning| format!("warning: {warning}\n"));
    let mut text = String::new();
    for experiment in &report.experiments {
        text.push_str(&format!("{}\n\n", experiment.title));
        for shown in &experiment.tables {
            text.push_str(&format!("{}\n{}\n", shown.title, table(shown)));
        }
        if !experiment.targets.is_empty() {
            text.push_str(&format!(
                "Targets\n{}\n",
                table(&targets(&experiment.targets))
            ));
        }
        text.push_str(&format!(
            "{} frames of restored guests were verified\n\n",
            experiment.frames_verified
        ));
    }
    for what in &report.left_out {
        text.push_str(&format!("left out: {what}\n"));
    }
    for what in &report.failed {
        text.push_str(&format!("failed: {what}\n"));
    }
    // Last, where it is seen.
    text.push_str(&warning.unwrap_or_default());
    text
}

/// Targets as a table.
pub fn targets(targets: &[Target]) -> Table {
    let row = |target: &Target| {
        let met = if target.is_met() { "yes" } else { "no" };
        vec![
            target.what.clone(),
            bound(target),
            measured(target.measured, &target.unit),
            met.to_owned(),
        ]
    };
    Table {
        title: "Targets".into(),
        columns: ["what", "wanted", "measured", "met"]
            .map(str::to_owned)
            .to_vec(),
        rows: targets.iter().map(row).collect(),
    }
}

fn bound(target: &Target) -> String {
    let (sign, bound) = match target.wanted {
        Bound::AtLeast(bound) => (">=", bound),
        Bound::AtMost(bound) => ("<=", bound),
    };
    format!("{sign} {}{}", figure(bound), target.unit)
}

/// `31.2x (28.0..33.1)`.
fn measured(spread: Spread, unit: &str) -> String {
    let Spread {
        median,
        min,
        max,
        count,
    } = spread;
    if count < 2 {
        return format!("{}{unit}", figure(median));
    }
    format!(
        "{}{unit} ({}..{})",
        figure(median),
        figure(min),
        figure(max)
    )
}

/// Three digits that count.
fn figure(number: f64) -> String {
    let digits = if number.abs() >= 100.0 || number.fract() == 0.0 {
        0
    } else if number.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.digits$}")
}

fn table(shown: &Table) -> String {
    let columns: Vec<Column<'_>> = shown
        .columns
        .iter()
        .enumerate()
        .map(|(index, name)| {
            if index == 0 {
                Column::Text(name)
            } else {
                Column::Number(name)
            }
        })
        .collect();
    human_units::table(&columns, &shown.rows)
}

#[cfg(test)]
#[path = "text_test.rs"]
mod text_test;

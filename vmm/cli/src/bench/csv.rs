//! The measurements of a report as CSV (RFC 4180): a line for each, as statistics programs take
//! them.

use super::report::Report;

const HEADER: &str = "experiment,chart,series,x_label,x,y_label,repetition,y";

/// All points of all curves, one measurement in a line.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{HEADER}\r\n");
    for experiment in &report.experiments {
        for chart in &experiment.charts {
            for series in &chart.series {
                for point in &series.points {
                    for (repetition, y) in (1u32..).zip(&point.measured) {
                        let cells = [
                            experiment.name.as_str(),
                            &chart.file,
                            &series.name,
                            &chart.x.label,
                            &point.x.to_string(),
                            &chart.y.label,
                            &repetition.to_string(),
                            &y.to_string(),
                        ];
                        text.push_str(&cells.map(cell).join(","));
                        text.push_str("\r\n");
                    }
                }
            }
        }
    }
    text
}

/// In quotes where the text has a mark of the format.
fn cell(text: &str) -> String {
    match text.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "csv_test.rs"]
mod csv_test;

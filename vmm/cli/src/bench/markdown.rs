//! A report as docs/performance.md.

use super::{
    report::{Experiment, Report, Table},
    text::targets,
};
use crate::human_units;

/// The whole document. Its plots are in the directory `plots` beside it.
pub fn document(report: &Report, plots: &str) -> String {
    let host = &report.host;
    let mut text = format!(
        "# nvvmm: performance\n\nWritten by `nvvmm bench` (nvvmm {}); `scripts/bench.sh` writes \
         it anew. Begun {} UTC, {:.0} s in all.\n",
        report.nvvmm, report.began, report.took_s
    );
    text.push_str(&format!(
        "\n## Machine\n\n{}, {} CPUs, {} of memory; Linux {}; KVM: {}.\n",
        host.cpu,
        host.cpus,
        human_units::size(host.memory_bytes),
        host.kernel,
        host.kvm
    ));
    if let Some(load) = &host.load {
        text.push_str(&match load.warning() {
            Some(warning) => format!("\n**Warning:** {warning}.\n"),
            None => format!("\nThe host was idle before the run: {}.\n", load.text()),
        });
    }
    text.push_str(&format!("\n## Method\n\n{}", list(&report.method)));
    text.push_str(&summary(report));
    for experiment in &report.experiments {
        text.push_str(&section(experiment, plots));
    }
    if !report.left_out.is_empty() {
        text.push_str(&format!("\n## Left out\n\n{}", list(&report.left_out)));
    }
    if !report.failed.is_empty() {
        text.push_str(&format!("\n## Failed\n\n{}", list(&report.failed)));
    }
    text
}

fn summary(report: &Report) -> String {
    let all: Vec<_> = report
        .experiments
        .iter()
        .flat_map(|e| e.targets.clone())
        .collect();
    if all.is_empty() {
        return String::new();
    }
    format!("\n## Targets\n\n{}", table(&targets(&all)))
}

fn section(experiment: &Experiment, plots: &str) -> String {
    let mut text = format!("\n## {}\n\n{}\n", experiment.title, experiment.about);
    for chart in &experiment.charts {
        text.push_str(&format!(
            "\n![{}]({plots}/{}.svg)\n",
            chart.title, chart.file
        ));
    }
    for shown in &experiment.tables {
        text.push_str(&format!("\n**{}**\n\n{}", shown.title, table(shown)));
    }
    text.push_str(&format!(
        "\nFrames of restored guests that were compared with what they must hold: {}.\n",
        experiment.frames_verified
    ));
    if !experiment.limits.is_empty() {
        text.push_str(&format!(
            "\nWhat the figures do not say:\n{}",
            list(&experiment.limits)
        ));
    }
    text
}

fn table(shown: &Table) -> String {
    let mut rule = vec!["---".to_owned()];
    rule.resize(shown.columns.len(), "---:".into());
    let lines = [&shown.columns, &rule].into_iter().chain(&shown.rows);
    lines
        .map(|cells| format!("| {} |\n", cells.join(" | ")))
        .collect()
}

fn list(sentences: &[String]) -> String {
    sentences
        .iter()
        .map(|sentence| format!("- {sentence}\n"))
        .collect()
}

#[cfg(test)]
#[path = "markdown_test.rs"]
mod markdown_test;

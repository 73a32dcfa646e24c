//! `nvvmm stats`: what a running VM counts.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nvvmm::control::RuntimeDir;
use nvvmm::stats::{Buckets, Exporter, ExporterAddress, Metric, MetricValue, VmStats, exposition};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::counted;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::args::StatsArguments;
use super::json::stats::Stats;
use super::output::{self, Column};
use super::vm_commands::connect;

/// Characters of the longest bar of a picture.
const BAR_WIDTH: u64 = 40;

/// `nvvmm stats`.
pub fn stats(arguments: &StatsArguments) -> Result<(), VmError> {
    if let Some(address) = &arguments.prometheus {
        return export(&arguments.vm, address);
    }
    let stats = ask(&RuntimeDir::of_user()?, &arguments.vm)?;
    if arguments.json.json {
        output::print_json(&Stats::of(&stats))
    } else {
        output::print(&stats_text(&stats))
    }
}

fn ask(dir: &RuntimeDir, vm: &str) -> Result<VmStats, VmError> {
    connect(&dir.find(vm)?)?.stats()
}

/// Serves metrics until a signal comes, also while the VM is gone: another one may get its name.
fn export(vm: &str, address: &ExporterAddress) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    ask(&dir, vm)?;
    let failed = |e: io::Error| VmError::io("serve metrics", &e);
    let (signalled, on_signal) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, on_signal.try_clone().map_err(failed)?)
            .map_err(failed)?;
    }
    let exporter = Exporter::bind(address).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => VmError::new(
            ErrorKind::Refused,
            "something else is at that address already",
        )
        .with_remedy("choose another; port 0 finds a free one"),
        _ => failed(e),
    })?;
    output::print(&format!(
        "metrics of {vm}: {}\n",
        exporter.place().map_err(failed)?
    ))?;
    let scrape = || {
        let stats = ask(&dir, vm).inspect_err(|error| tracing::info!(%error, "no metrics of {vm}"));
        exposition(vm, stats.ok().as_ref())
    };
    exporter.serve(signalled.as_fd(), scrape).map_err(failed)
}

/// A table of all numbers, then a picture of each kind of time.
fn stats_text(stats: &VmStats) -> String {
    let metrics = stats.metrics();
    let columns = [
        Column::Text("COUNTED"),
        Column::Number("VALUE"),
        Column::Text("MEANING"),
    ];
    let rows: Vec<Vec<String>> = metrics.iter().flat_map(rows_of).collect();
    let mut text = output::table(&columns, &rows);
    for metric in &metrics {
        if let MetricValue::Times(buckets) = &metric.value {
            text.push_str(&format!(
                "\n{}: {}\n",
                words(metric.name),
                times_line(metric.meaning, buckets)
            ));
            text.push_str(&picture(buckets));
        }
    }
    text
}

fn rows_of(metric: &Metric) -> Vec<Vec<String>> {
    let row = |name: String, value: &u64, meaning: &str| {
        vec![name, value.to_string(), meaning.to_owned()]
    };
    match &metric.value {
        MetricValue::Number(value) => vec![row(words(metric.name), value, metric.meaning)],
        MetricValue::Labelled(_, values) => {
            let name = words(metric.name);
            // The meaning stands beside the first of them.
            let meanings = std::iter::once(metric.meaning).chain(std::iter::repeat(""));
            let rows = values.iter().zip(meanings);
            rows.map(|((label, value), meaning)| row(format!("{name}, {label}"), value, meaning))
                .collect()
        }
        MetricValue::Times(_) => Vec::new(),
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn times_line(meaning: &str, buckets: &Buckets) -> String {
    let Some(mean_us) = buckets.mean_us() else {
        return format!("{meaning}: none yet");
    };
    let share = |share| match buckets.bound_of_share_us(share) {
        Some(us) => format!("within {}", output::time_us(us as f64)),
        None => "beyond all bounds".to_owned(),
    };
    format!(
        "{meaning}: {}, {} on average, half {}, 99 of 100 {}",
        counted(buckets.count(), "time"),
        output::time_us(mean_us),
        share(0.5),
        share(0.99)
    )
}

/// One line for each bucket between the first and the last that have anything.
fn picture(buckets: &Buckets) -> String {
    let counts = &buckets.counts;
    let is_used = |count: &u64| *count > 0;
    let (Some(first), Some(last)) = (
        counts.iter().position(is_used),
        counts.iter().rposition(is_used),
    ) else {
        return String::new();
    };
    let most = counts.iter().copied().max().unwrap_or(1);
    let lines = (first..=last).map(|index| {
        let (bound, count) = (bound_text(index), counts[index]);
        let bar = "█".repeat((count * BAR_WIDTH).div_ceil(most) as usize);
        let line = format!("  {bound:>12}  {count:>9}  {bar}");
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

fn bound_text(index: usize) -> String {
    match (
        Buckets::bound_us(index),
        index.checked_sub(1).and_then(Buckets::bound_us),
    ) {
        (Some(us), _) => format!("≤ {}", output::time_us(us as f64)),
        (None, below) => format!("> {}", output::time_us(below.unwrap_or(0) as f64)),
    }
}

#[cfg(test)]
#[path = "stats_command_test.rs"]
mod stats_command_test;

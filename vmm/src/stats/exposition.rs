//! Metrics of a VM in the text format that Prometheus and others read.
//!
//! Source: "Text-based format", version 0.0.4, of the exposition formats in Prometheus's
//! documentation.

use std::fmt::{self, Display, Write};

use super::{Buckets, Metric, MetricKind, MetricValue, VmStats};

/// Content-Type of [`exposition`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// All names begin with it.
const PREFIX: &str = "nvvmm_";

/// The metrics of a VM, each sample with the VM's name as a label. `None`: the VM does not answer,
/// and only that is said.
pub fn exposition(vm: &str, stats: Option<&VmStats>) -> String {
    let mut text = Exposition {
        vm,
        text: String::new(),
    };
    let up = "whether the VM answers";
    let written = text
        .family("up", up, "gauge")
        .and_then(|()| text.sample("up", None, u8::from(stats.is_some())))
        .and_then(|()| {
            let mut metrics = stats.map(VmStats::metrics).unwrap_or_default().into_iter();
            metrics.try_for_each(|metric| text.metric(&metric))
        });
    // A String takes all that is written to it.
    debug_assert!(written.is_ok());
    text.text
}

struct Exposition<'a> {
    vm: &'a str,
    text: String,
}

impl Exposition<'_> {
    fn metric(&mut self, metric: &Metric) -> fmt::Result {
        let (suffix, kind) = match metric.kind {
            MetricKind::Counter => ("_total", "counter"),
            MetricKind::Gauge => ("", "gauge"),
            MetricKind::Times => ("_seconds", "histogram"),
        };
        let name = format!("{}{suffix}", metric.name);
        self.family(&name, metric.meaning, kind)?;
        match &metric.value {
            MetricValue::Number(value) => self.sample(&name, None, value),
            MetricValue::Labelled(label, values) => values
                .iter()
                .try_for_each(|(of, value)| self.sample(&name, Some((label, of)), value)),
            MetricValue::Times(buckets) => self.histogram(&name, buckets),
        }
    }

    fn family(&mut self, name: &str, meaning: &str, kind: &str) -> fmt::Result {
        writeln!(
            self.text,
            "# HELP {PREFIX}{name} {}",
            Escaped(meaning, false)
        )?;
        writeln!(self.text, "# TYPE {PREFIX}{name} {kind}")
    }

    fn sample(
        &mut self,
        name: &str,
        label: Option<(&str, &str)>,
        value: impl Display,
    ) -> fmt::Result {
        write!(
            self.text,
            "{PREFIX}{name}{{vm=\"{}\"",
            Escaped(self.vm, true)
        )?;
        if let Some((label, of)) = label {
            write!(self.text, ",{label}=\"{}\"", Escaped(of, true))?;
        }
        writeln!(self.text, "}} {value}")
    }

    /// Buckets here count what is up to their bound and in none before; there, all that is up to
    /// it.
    fn histogram(&mut self, name: &str, buckets: &Buckets) -> fmt::Result {
        let bucket = format!("{name}_bucket");
        let mut so_far = 0;
        for (index, count) in buckets.counts.iter().enumerate() {
            so_far += count;
            if let Some(us) = Buckets::bound_us(index) {
                let bound = (us as f64 / 1e6).to_string();
                self.sample(&bucket, Some(("le", &bound)), so_far)?;
            }
        }
        self.sample(&bucket, Some(("le", "+Inf")), so_far)?;
        self.sample(&format!("{name}_sum"), None, buckets.sum_us / 1e6)?;
        self.sample(&format!("{name}_count"), None, so_far)
    }
}

/// Text in which a newline or a backslash ends nothing, nor a quotation mark where it is in
/// quotation marks.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '"' if self.1 => out.write_str("\\\""),
            other => out.write_char(other),
        })
    }
}

#[cfg(test)]
#[path = "exposition_test.rs"]
mod exposition_test;

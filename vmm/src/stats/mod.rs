//! What a running VM counts: faults, copies, calls to the kernel, checkpoints, commits, and how
//! long they took.
//!
//! [`Counter`] and [`Histogram`] are where things happen: no lock, one atomic addition or two.
//! [`VmStats`] is what they say at one moment, for the control socket;
//! [`metrics`](VmStats::metrics) lists it with names and meanings, for people and for monitoring
//! ([`exposition`], [`Exporter`]). Counts say what was done and not how fast, so that tests can ask
//! for exact numbers.

mod counter;
mod exporter;
mod exposition;
mod histogram;
mod http;
mod metric;
mod report;
mod snapshots;

pub use counter::Counter;
pub use exporter::{Exporter, ExporterAddress};
pub use exposition::exposition;
pub use histogram::{BUCKETS, Buckets, Histogram};
pub use metric::{Metric, MetricKind, MetricValue};
pub use report::{KernelCalls, SnapshotStats, VmStats};
pub use snapshots::SnapshotCounters;

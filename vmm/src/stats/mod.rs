//! Counts of a running VM: faults, copies, calls to the kernel, checkpoints, commits, and the times
//! that they took.
//!
//! [`Counter`] and [`Histogram`] count: no lock, one atomic addition or two. [`Phases`] times one
//! operation. [`VmStats`] has all counts at one moment, for the control socket;
//! [`metrics`](VmStats::metrics) lists it with names and meanings, for people and for monitoring
//! ([`exposition`], [`Exporter`]). Counts say what was done and not how fast, so that tests can ask
//! for exact numbers.

mod counter;
mod exporter;
mod exposition;
mod histogram;
mod http;
mod longest;
mod metric;
pub mod phases;
mod report;

pub use counter::Counter;
pub use exporter::{Exporter, ExporterAddress};
pub use exposition::exposition;
pub use histogram::{BUCKETS, Buckets, Histogram};
pub use longest::Longest;
pub use metric::{Metric, MetricKind, MetricValue};
pub use phases::{PhaseTime, Phases};
pub use report::{KernelCalls, RamCounters, SnapshotStats, VmStats};

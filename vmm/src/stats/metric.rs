//! Names and meanings of all metrics: one list, for the table and for monitoring.

use super::{Buckets, VmStats};

/// One thing that is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Name, of lower-case letters and `_`; units last.
    pub name: &'static str,
    /// Its meaning, in one line.
    pub meaning: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its value.
    pub value: MetricValue,
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows, until a new start.
    Counter,
    /// A level.
    Gauge,
    /// Counts of times, which only grow.
    Times,
}

/// The value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// One number.
    Number(u64),
    /// A number for each of the values of a label.
    Labelled(&'static str, Vec<(&'static str, u64)>),
    /// Times.
    Times(Buckets),
}

impl VmStats {
    /// All metrics, in the order in which they are shown.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.of_memory();
        metrics.extend(self.of_copies());
        metrics.extend(self.of_calls());
        metrics.extend(self.of_snapshots());
        metrics.extend(self.replica_lag_ms.map(|lag_ms| {
            gauge(
                "replica_lag_milliseconds",
                "age of the newest replica in an object store",
                lag_ms,
            )
        }));
        metrics
    }

    fn of_memory(&self) -> Vec<Metric> {
        let ram = &self.ram;
        vec![
            gauge(
                "uptime_seconds",
                "since the VM process built the VM",
                self.uptime_ms / 1000,
            ),
            Metric {
                name: "memory_frames",
                meaning: "frames of guest RAM: with a block, of this VM alone, in a snapshot, \
                          with nothing, in the balloon",
                kind: MetricKind::Gauge,
                value: MetricValue::Labelled(
                    "kind",
                    vec![
                        ("mapped", ram.frames_mapped),
                        ("own", ram.frames_own),
                        ("shared", ram.frames_shared),
                        ("empty", ram.frames_empty),
                        ("balloon", ram.frames_ballooned),
                    ],
                ),
            },
            counter(
                "frames_released",
                "frames that the guest gave back to the pool",
                ram.frames_released,
            ),
            gauge(
                "mappings",
                "mappings (VMAs) that guest RAM takes",
                ram.mappings,
            ),
            gauge(
                "mappings_limit",
                "mappings that it may take",
                ram.mappings_limit,
            ),
        ]
    }

    fn of_copies(&self) -> Vec<Metric> {
        let ram = &self.ram;
        vec![
            counter(
                "write_faults",
                "writes to a snapshot's frames that were held and copied",
                ram.write_faults,
            ),
            counter(
                "chunk_faults",
                "first touches of 2 MiB that were held",
                ram.chunk_faults,
            ),
            counter(
                "frames_copied",
                "frames copied, on write or for a snapshot",
                ram.frames_copied,
            ),
            counter(
                "frames_copied_hot",
                "of these, frames copied ahead of the guest, \
                 which writes them in epoch after epoch",
                ram.frames_copied_hot,
            ),
            counter(
                "chunks_copied",
                "chunks of 2 MiB copied as a whole",
                ram.chunks_copied,
            ),
            counter(
                "chunks_copied_next",
                "of these, chunks copied behind those that the guest was writing",
                ram.chunks_copied_next,
            ),
            counter(
                "huge_pages",
                "chunks of guest RAM taken as one huge page of a tmpfs",
                ram.huge_pages,
            ),
        ]
    }

    fn of_calls(&self) -> Vec<Metric> {
        let calls = &self.kernel_calls;
        vec![
            Metric {
                name: "kernel_calls",
                meaning: "calls to the kernel for guest RAM",
                kind: MetricKind::Counter,
                value: MetricValue::Labelled(
                    "call",
                    vec![
                        ("protect", calls.protect),
                        ("register", calls.register),
                        ("wake", calls.wake),
                        ("fill", calls.fill),
                        ("mmap", calls.mmap),
                    ],
                ),
            },
            times(
                "fault_latency",
                "how long guest accesses were held",
                &self.fault_latency,
            ),
            gauge(
                "fault_longest_microseconds",
                "the longest time that a guest access was held",
                self.held_us_max.round() as u64,
            ),
        ]
    }

    fn of_snapshots(&self) -> Vec<Metric> {
        let (snapshots, pool) = (&self.snapshots, &self.pool);
        vec![
            counter("snapshots", "snapshots taken", snapshots.taken),
            counter(
                "snapshots_failed",
                "snapshots refused or failed",
                snapshots.failed,
            ),
            counter(
                "snapshot_frames_new",
                "frames that were not in the snapshot before",
                snapshots.frames_new,
            ),
            Metric {
                name: "snapshot_frames_copied",
                meaning: "frames copied for snapshots, by what the guest did meanwhile",
                kind: MetricKind::Counter,
                value: MetricValue::Labelled(
                    "guest",
                    vec![
                        ("running", snapshots.frames_copied_ahead),
                        ("paused", snapshots.frames_copied_paused),
                    ],
                ),
            },
            Metric {
                name: "snapshot_paused_calls",
                meaning: "calls to the kernel for guest RAM while the VM stood still",
                kind: MetricKind::Counter,
                value: MetricValue::Labelled(
                    "call",
                    vec![
                        ("ioctl", snapshots.ioctls_paused),
                        ("mmap", snapshots.mmaps_paused),
                    ],
                ),
            },
            times(
                "snapshot_pause",
                "how long a running guest stood still for a snapshot",
                &snapshots.pause,
            ),
            times(
                "snapshot_copy_ahead",
                "how long was copied ahead of the pause",
                &snapshots.copy_ahead,
            ),
            counter(
                "pool_commits",
                "commits of this VM process to the pool",
                pool.commits,
            ),
            counter(
                "pool_metadata_bytes",
                "bytes of metadata that these wrote",
                pool.metadata_bytes,
            ),
        ]
    }
}

fn counter(name: &'static str, meaning: &'static str, value: u64) -> Metric {
    Metric {
        name,
        meaning,
        kind: MetricKind::Counter,
        value: MetricValue::Number(value),
    }
}

fn gauge(name: &'static str, meaning: &'static str, value: u64) -> Metric {
    Metric {
        name,
        meaning,
        kind: MetricKind::Gauge,
        value: MetricValue::Number(value),
    }
}

fn times(name: &'static str, meaning: &'static str, buckets: &Buckets) -> Metric {
    Metric {
        name,
        meaning,
        kind: MetricKind::Times,
        value: MetricValue::Times(buckets.clone()),
    }
}

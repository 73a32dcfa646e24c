//! Cost of the snapshots of a VM, all together.

use super::report::SnapshotReport;
use crate::stats::{Counter, Histogram, SnapshotStats};

/// Counts the snapshots of one VM.
#[derive(Debug, Default)]
pub struct SnapshotCounters {
    /// Times for which a running guest stood still, also for snapshots that failed.
    pub pause: Histogram,
    /// Times for which the engine copied ahead of the pause.
    pub copy_ahead: Histogram,
    taken: Counter,
    failed: Counter,
    frames_new: Counter,
    frames_copied_ahead: Counter,
    frames_copied_paused: Counter,
    ioctls_paused: Counter,
    mmaps_paused: Counter,
}

impl SnapshotCounters {
    /// Counts a snapshot that was taken.
    pub fn taken(&self, report: &SnapshotReport) {
        self.taken.one();
        self.frames_new.add(report.frames_new);
        let ahead = report
            .frames_copied
            .saturating_sub(report.frames_copied_paused);
        self.frames_copied_ahead.add(ahead);
        self.frames_copied_paused.add(report.frames_copied_paused);
        self.ioctls_paused.add(report.ioctls_paused);
        self.mmaps_paused.add(report.mmaps_paused);
    }

    /// Counts a snapshot that was refused, withdrawn, or failed.
    pub fn failed(&self) {
        self.failed.one();
    }

    /// The counts so far.
    pub fn stats(&self) -> SnapshotStats {
        SnapshotStats {
            taken: self.taken.get(),
            failed: self.failed.get(),
            frames_new: self.frames_new.get(),
            frames_copied_ahead: self.frames_copied_ahead.get(),
            frames_copied_paused: self.frames_copied_paused.get(),
            ioctls_paused: self.ioctls_paused.get(),
            mmaps_paused: self.mmaps_paused.get(),
            pause: self.pause.buckets(),
            copy_ahead: self.copy_ahead.buckets(),
        }
    }
}

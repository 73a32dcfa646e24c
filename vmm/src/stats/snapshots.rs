//! What snapshots cost, all of a VM's together.

use super::{Counter, Histogram, SnapshotStats};
use crate::checkpoint::report::SnapshotReport;

/// Counts the snapshots of one VM.
#[derive(Debug, Default)]
pub struct SnapshotCounters {
    /// How long a running guest stood still, also where no snapshot came of it.
    pub pause: Histogram,
    /// How long was copied ahead of the pause.
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
    /// One was taken.
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

    /// One was not: refused, withdrawn, or it failed.
    pub fn failed(&self) {
        self.failed.one();
    }

    /// What was counted so far.
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

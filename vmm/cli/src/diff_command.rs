//! `nvvmm diff`.

use nvvmm::memory::{LOW_RAM_END, gpa_of};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, DiffReport, FrameRun, MapKind, Pool, SnapshotKind};

use super::args::PoolOption;
use super::interruption::{ends_on_signal, unless};
use super::json;
use super::output::{self, Column};
use super::pool_path;
use super::progress::Progress;
use super::snapshot_commands::kind_word;

/// The last frame below the hole in a guest's memory, and one.
const LOW_FRAMES: u64 = LOW_RAM_END / BLOCK_SIZE_BYTES;

/// Frames as users know them.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// The disk that it is of; none for memory.
    disk: Option<String>,
    /// Guest frame number, page of a process's image, or block of a disk.
    first: u64,
    frames: u64,
}

#[derive(Debug)]
struct Difference {
    kind: SnapshotKind,
    frames_shared: u64,
    frames_alike: u64,
    frames_different: u64,
    different: Vec<Range>,
}

/// `nvvmm diff`.
pub fn run(names: [&str; 2], option: &PoolOption, as_json: bool) -> Result<(), VmError> {
    let path = pool_path::found(option)?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("compare")?;
    let pool = pool_path::open_confined(&path)?;
    let kind = kind_of_both(&pool, names)?;
    let report = pool.diff(names, &mut |progress| {
        shown.show(
            progress.frames_done * BLOCK_SIZE_BYTES,
            Some(progress.frames_total * BLOCK_SIZE_BYTES),
        );
        unless(&interrupted)
    })?;
    drop(shown);
    if report.interrupted {
        return Err(VmError::failed("interrupted: not all was compared"));
    }
    let difference = Difference::of(kind, &report);
    if as_json {
        output::print_json(&difference.json(names))
    } else {
        output::print(&difference.text(names))
    }
}

fn kind_of_both(pool: &Pool, names: [&str; 2]) -> Result<SnapshotKind, VmError> {
    let [left, right] = names.map(|name| pool.find(name).map(|entry| entry.kind));
    let (left, right) = (left?, right?);
    if left != right {
        let why = format!(
            "'{}' and '{}' cannot be compared: one is of a VM, the other of a process",
            names[0], names[1]
        );
        return Err(VmError::new(ErrorKind::Refused, why));
    }
    Ok(left)
}

impl Difference {
    fn of(kind: SnapshotKind, report: &DiffReport) -> Self {
        let ranges = report
            .different
            .iter()
            .flat_map(|run| match (run.map, kind) {
                (MapKind::Memory, SnapshotKind::Vm) => guest_ranges(*run),
                (map, _) => vec![Range {
                    disk: disk_of(map),
                    first: run.frame,
                    frames: run.frames,
                }],
            });
        Self {
            kind,
            frames_shared: report.frames_shared,
            frames_alike: report.frames_alike,
            frames_different: report.frames_different,
            different: ranges.collect(),
        }
    }

    fn json(&self, [from, to]: [&str; 2]) -> json::snapshot::Difference {
        let ranges = self.different.iter();
        json::snapshot::Difference {
            from: from.to_owned(),
            to: to.to_owned(),
            kind: kind_word(self.kind).to_owned(),
            block_bytes: BLOCK_SIZE_BYTES,
            shared_bytes: self.frames_shared * BLOCK_SIZE_BYTES,
            alike_bytes: self.frames_alike * BLOCK_SIZE_BYTES,
            different_bytes: self.frames_different * BLOCK_SIZE_BYTES,
            different: ranges
                .map(|range| json::snapshot::FrameRange {
                    disk: range.disk.clone(),
                    first_frame: range.first,
                    length_blocks: range.frames,
                })
                .collect(),
        }
    }

    fn text(&self, names: [&str; 2]) -> String {
        let mut text = String::new();
        if !self.different.is_empty() {
            let what = match self.kind {
                SnapshotKind::Vm => "GFN",
                SnapshotKind::Process => "PAGE",
            };
            let columns = [
                Column::Text(what),
                Column::Number("FRAMES"),
                Column::Number("SIZE"),
                Column::Text("OF"),
            ];
            let has_disks = self.different.iter().any(|range| range.disk.is_some());
            let shown = if has_disks { 4 } else { 3 };
            let rows = self.different.iter().map(|range| range.row(shown));
            let (columns, rows) = (&columns[..shown], rows.collect::<Vec<_>>());
            text.push_str(&output::table(columns, &rows));
            text.push('\n');
        }
        let size = |frames| output::frames_size(frames);
        text.push_str(&format!(
            "{} and {}: {} differ, {} are in blocks of both, {} hold the same in blocks of their \
             own\n",
            names[0],
            names[1],
            size(self.frames_different),
            size(self.frames_shared),
            size(self.frames_alike)
        ));
        text
    }
}

impl Range {
    /// The first columns of its row.
    fn row(&self, columns: usize) -> Vec<String> {
        let last = self.first + self.frames - 1;
        let mut row = vec![
            format!("{:#010x}-{last:#010x}", self.first),
            self.frames.to_string(),
            output::size(self.frames * BLOCK_SIZE_BYTES),
            self.disk.clone().unwrap_or_else(|| "memory".to_owned()),
        ];
        row.truncate(columns);
        row
    }
}

/// The disk that a map is of.
fn disk_of(map: MapKind) -> Option<String> {
    match map {
        MapKind::Memory => None,
        MapKind::Disk(name) => Some(name.to_string()),
    }
}

/// Splits a run in two where it spans the hole in the guest's memory.
fn guest_ranges(run: FrameRun) -> Vec<Range> {
    let end = run.frame + run.frames;
    let cut = end.min(LOW_FRAMES.max(run.frame));
    [(run.frame, cut), (cut, end)]
        .into_iter()
        .filter(|(start, end)| start < end)
        .map(|(start, end)| Range {
            disk: None,
            first: gpa_of(start * BLOCK_SIZE_BYTES) / BLOCK_SIZE_BYTES,
            frames: end - start,
        })
        .collect()
}

#[cfg(test)]
#[path = "diff_command_test.rs"]
mod diff_command_test;

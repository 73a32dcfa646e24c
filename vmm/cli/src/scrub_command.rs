//! `nvvmm pool scrub`.

use std::path::Path;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm::memory::gpa_of;
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, DamagedFrame, ScrubReport, counted, plural};
use serde::Serialize;
use serde_json::Value;

use super::args::PoolOption;
use super::error::EXIT_POOL_DAMAGED;
use super::interruption::{ends_on_signal, unless};
use super::progress::Progress;
use super::{output, pool_path};

/// A damaged frame as its VM knows it.
#[derive(Serialize)]
struct DamagedGuestFrame<'r> {
    gfn: u64,
    #[serde(flatten)]
    damaged: &'r DamagedFrame,
}

/// `nvvmm pool scrub`. Exit code 6 when something is damaged, 1 when it was interrupted.
pub fn scrub(option: &PoolOption, json: bool) -> Result<ExitCode, VmError> {
    let path = pool_path::found(option)?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("scrub")?;
    let pool = pool_path::open_confined(&path)?;
    let report = pool.scrub(&mut |progress| {
        shown.show(
            progress.frames_done * BLOCK_SIZE_BYTES,
            Some(progress.frames_total * BLOCK_SIZE_BYTES),
        );
        unless(&interrupted)
    })?;
    drop(shown);
    if json {
        output::print_json(&scrub_json(&report)?)?;
    } else {
        output::print(&scrub_text(&path, &report))?;
    }
    Ok(match (report.is_clean(), report.interrupted) {
        (false, _) => EXIT_POOL_DAMAGED.into(),
        (true, true) => ExitCode::FAILURE,
        (true, false) => ExitCode::SUCCESS,
    })
}

fn guest_frame(damaged: &DamagedFrame) -> DamagedGuestFrame<'_> {
    DamagedGuestFrame {
        gfn: gpa_of(damaged.frame * BLOCK_SIZE_BYTES) / BLOCK_SIZE_BYTES,
        damaged,
    }
}

/// The report, with the GFNs of damaged frames.
fn scrub_json(report: &ScrubReport) -> Result<Value, VmError> {
    let frames: Vec<DamagedGuestFrame<'_>> = report.damaged.iter().map(guest_frame).collect();
    serde_json::to_value(report)
        .and_then(|mut value| {
            value["damaged"] = serde_json::to_value(frames)?;
            Ok(value)
        })
        .map_err(|e| VmError::failed(format!("cannot write JSON: {e}")))
}

fn scrub_text(path: &Path, report: &ScrubReport) -> String {
    let mut text: String = report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    for frame in report.damaged.iter().map(guest_frame) {
        let DamagedFrame {
            snapshot,
            block,
            unreadable,
            ..
        } = frame.damaged;
        let what = if *unreadable {
            "cannot be read"
        } else {
            "does not match its digest"
        };
        text.push_str(&format!(
            "snapshot '{snapshot}': frame {:#x} (GFN), in {block}, {what}\n",
            frame.gfn
        ));
    }
    let unlisted = report.frames_damaged - report.damaged.len() as u64;
    if unlisted > 0 {
        let frames = plural(unlisted, "frame");
        text.push_str(&format!("and {unlisted} more damaged {frames}\n"));
    }
    let blocks = |blocks: u64| output::frames_size(blocks);
    text.push_str(&format!(
        "{}: {} verified, {} got digests now, {} damaged, in {}\n",
        path.display(),
        blocks(report.blocks_verified),
        blocks(report.digests_made),
        blocks(report.blocks_damaged),
        counted(report.snapshots_done, "snapshot")
    ));
    if report.interrupted {
        text.push_str("interrupted: the rest was not read\n");
    }
    text
}

#[cfg(test)]
#[path = "scrub_command_test.rs"]
mod scrub_command_test;

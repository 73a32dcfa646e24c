//! `nvvmm pool scrub`.

use std::path::Path;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, DamagedFrame, ScrubReport, counted, plural};

use super::args::PoolOption;
use super::error::{EXIT_FAILED, EXIT_POOL_DAMAGED};
use super::interruption::{end_by_signal, ends_on_signal, unless};
use super::json::pool::{Damaged, Scrub};
use super::progress::Progress;
use super::{output, pool_path};

/// `nvvmm pool scrub`. Exit code 6 when something is damaged. A signal that interrupts it ends the
/// process after the report.
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
        output::print_json(&Scrub::of(&path, &report))?;
    } else {
        output::print(&scrub_text(&path, &report))?;
    }
    Ok(match (report.is_clean(), report.interrupted) {
        (false, _) => EXIT_POOL_DAMAGED.into(),
        (true, true) => {
            end_by_signal();
            EXIT_FAILED.into()
        }
        (true, false) => ExitCode::SUCCESS,
    })
}

/// The place of a damaged frame, as users know it.
fn place_of(damaged: &DamagedFrame) -> String {
    let json = Damaged::of(damaged);
    match (json.disk, json.snapshot, json.gfn) {
        (Some(disk), Some(snapshot), _) => {
            format!(
                "snapshot '{snapshot}': disk '{disk}': byte {}",
                json.disk_offset_bytes.unwrap_or(0)
            )
        }
        (Some(disk), None, _) => format!(
            "disk '{disk}': byte {}",
            json.disk_offset_bytes.unwrap_or(0)
        ),
        (None, snapshot, gfn) => format!(
            "snapshot '{}': frame {:#x} (GFN)",
            snapshot.unwrap_or_default(),
            gfn.unwrap_or(json.frame)
        ),
    }
}

fn scrub_text(path: &Path, report: &ScrubReport) -> String {
    let mut text: String = report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    for damaged in &report.damaged {
        let DamagedFrame {
            block, unreadable, ..
        } = damaged;
        let what = if *unreadable {
            "cannot be read"
        } else {
            "does not match its digest"
        };
        let place = place_of(damaged);
        text.push_str(&format!("{place}, in {block}, {what}\n"));
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

//! The line that says, with each snapshot, which disks are not in it.

use std::path::Path;

use nvvmm::checkpoint::report::OutsideDisk;
use nvvmm::control::VmStatus;
use nvvmm::spec::DiskSpec;

use super::terminal::{shown_in_line, tell as tell_user};

/// Tells of the disks of a snapshot that it does not hold.
pub fn tell(disks: &[OutsideDisk]) {
    tell_user(&text(disks));
}

/// Tells of the disks that the checkpoints of a VM do not hold.
pub fn tell_of_running(status: &VmStatus) {
    let disks = status.disks.iter().map(|disk| &disk.disk);
    let images = { disks.filter(|disk| !disk.read_only) }.filter_map(DiskSpec::path);
    let disks: Vec<OutsideDisk> = images
        .map(|path| OutsideDisk {
            checked: !is_block_device(path),
            path: path.display().to_string(),
        })
        .collect();
    tell(&disks);
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// One line about all of them; no text when there are none.
fn text(disks: &[OutsideDisk]) -> String {
    let names = |checked: bool| {
        let disks = disks.iter().filter(|disk| disk.checked == checked);
        let names: Vec<_> = disks.map(|disk| shown_in_line(&disk.path)).collect();
        names.join(", ")
    };
    let (files, devices) = (names(true), names(false));
    let mut parts = Vec::new();
    if !files.is_empty() {
        parts.push(format!(
            "{files} not included; a restore is refused if written after this"
        ));
    }
    if !devices.is_empty() {
        parts.push(format!(
            "{devices} not included; writes after this to a block device are not noticed"
        ));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("nvvmm: note: disk {}\n", parts.join("; disk ")),
    }
}

#[cfg(test)]
#[path = "outside_disks_test.rs"]
mod outside_disks_test;

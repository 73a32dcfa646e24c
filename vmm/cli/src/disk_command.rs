//! `nvvmm disk`: disks of the pool, and images of running VMs that have another size.

use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm::control::RuntimeDir;
use nvvmm::control::message::ResizedDisk;

use super::args::DiskCommand;
use super::terminal::shown_in_line;
use super::vm_commands::connect;
use super::{disk, json, output};

/// `nvvmm disk ...`.
pub fn run(command: DiskCommand) -> Result<ExitCode, VmError> {
    match command {
        DiskCommand::Import(arguments) => disk::import::run(&arguments)?,
        DiskCommand::Create {
            name,
            size,
            pool,
            json,
        } => disk::create(&name, size, &pool, json.json)?,
        DiskCommand::Ls {
            snapshot,
            quiet,
            pool,
            json,
        } => disk::list(snapshot.as_deref(), &pool, quiet, json.json)?,
        DiskCommand::Info { disk, pool, json } => disk::info(&disk, &pool, json.json)?,
        DiskCommand::Resize {
            name,
            size,
            pool,
            json,
        } => disk::resize(&name, size, &pool, json.json)?,
        DiskCommand::Rename { name, new, pool } => disk::rename(&name, &new, &pool)?,
        DiskCommand::Rm(arguments) => return disk::remove(&arguments),
        DiskCommand::Copy {
            disk,
            name,
            pool,
            json,
        } => disk::copy(&disk, &name, &pool, json.json)?,
        DiskCommand::Export(arguments) => disk::export::run(&arguments)?,
        DiskCommand::Rescan { vm, json } => rescan(&vm, json.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rescan(vm: &str, is_json: bool) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let resized = connect(&dir.find(vm)?)?.measure_disks()?;
    if is_json {
        let disks: Vec<_> = resized.iter().map(json::vm::ResizedDisk::of).collect();
        return output::print_json(&disks);
    }
    output::print(&text(vm, &resized))
}

fn text(vm: &str, resized: &[ResizedDisk]) -> String {
    if resized.is_empty() {
        return format!("no disk of {vm} has another size\n");
    }
    let lines = resized.iter().map(|disk| {
        let path = disk.path.display().to_string();
        let size = output::size(disk.size_bytes);
        format!("disk {} of {vm}: {size}\n", shown_in_line(&path))
    });
    lines.collect()
}

#[cfg(test)]
#[path = "disk_command_test.rs"]
mod disk_command_test;

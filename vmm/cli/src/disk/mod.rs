//! Disks of the pool: imported, exported, made, listed, made larger, renamed, removed, copied.

pub mod export;
pub mod image;
pub mod import;
pub mod place;

use std::process::ExitCode;
use std::sync::Arc;

use nvvmm::control::{ControlClient, RuntimeDir};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{DiskEntry, Error, MapEntry, MapKind, Pool, SnapshotEntry};

use self::place::DiskPlace;
use super::args::{DiskRmArguments, PoolOption};
use super::names::{self, Chosen, Kind};
use super::output::{self, Column};
use super::values::NewSize;
use super::vm_commands::connect;
use super::{json, pool_path};

/// `nvvmm disk create`.
pub fn create(
    name: &str,
    size_bytes: u64,
    option: &PoolOption,
    as_json: bool,
) -> Result<(), VmError> {
    let pool = pool_path::open(&pool_path::found_or_made(option)?)?;
    let made = pool.create_disk(name, size_bytes).map_err(taken_name)?;
    tell("made", &made, as_json)
}

/// `nvvmm disk ls`.
pub fn list(
    snapshot: Option<&str>,
    option: &PoolOption,
    quiet: bool,
    as_json: bool,
) -> Result<(), VmError> {
    if let Some(snapshot) = snapshot {
        let pool = opened(option)?;
        let entry = entry_of(&pool, snapshot)?;
        return list_of_snapshot(&entry, quiet, as_json);
    }
    // The default pool that nobody has needed yet has no disks.
    let disks = match pool_path::found_if_any(option)? {
        Some(path) => pool_path::open(&path)?.disks()?,
        None => Vec::new(),
    };
    if quiet {
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        return output::print_names(&names);
    }
    if as_json {
        let disks: Vec<_> = disks.iter().map(json::disk::Disk::of).collect();
        return output::print_json(&disks);
    }
    if disks.is_empty() {
        return output::print("no disks\n");
    }
    output::print(&table(&disks))
}

fn table(disks: &[DiskEntry]) -> String {
    let columns = [
        Column::Text("NAME"),
        Column::Text("MADE (UTC)"),
        Column::Number("SIZE"),
        Column::Number("USED"),
        Column::Text("FROM"),
        Column::Text("WRITER"),
    ];
    let rows = disks.iter().map(|disk| {
        vec![
            disk.name.clone(),
            output::moment(disk.created_unix_ns),
            output::size(disk.size_bytes),
            output::frames_size(disk.blocks),
            origin(disk.foreign).to_owned(),
            disk.writer.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::table(&columns, &rows.collect::<Vec<_>>())
}

fn origin(foreign: bool) -> &'static str {
    match foreign {
        true => "elsewhere",
        false => "here",
    }
}

fn list_of_snapshot(entry: &SnapshotEntry, quiet: bool, as_json: bool) -> Result<(), VmError> {
    let disks = disks_of(entry);
    if quiet {
        let names: Vec<String> = disks.iter().map(|(name, _)| name.clone()).collect();
        return output::print_names(&names);
    }
    if as_json {
        let of = |map: &MapEntry| json::disk::Disk::of_snapshot(entry, map);
        let disks: Vec<_> = entry.maps.iter().filter_map(of).collect();
        return output::print_json(&disks);
    }
    if disks.is_empty() {
        return output::print(&format!("snapshot {} has no disks\n", entry.name));
    }
    let columns = [
        Column::Text("NAME"),
        Column::Number("SIZE"),
        Column::Number("USED"),
    ];
    let rows = disks.into_iter().map(|(name, map)| {
        let used = output::frames_size(map.frames);
        vec![name, output::size(map.size_bytes), used]
    });
    output::print(&output::table(&columns, &rows.collect::<Vec<_>>()))
}

/// The disks of a snapshot, with their names.
fn disks_of(entry: &SnapshotEntry) -> Vec<(String, &MapEntry)> {
    let maps = entry.maps.iter();
    let disks = maps.filter_map(|map| match map.kind {
        MapKind::Disk(name) => Some((name.to_string(), map)),
        MapKind::Memory => None,
    });
    disks.collect()
}

/// `nvvmm disk info`.
pub fn info(place: &DiskPlace, option: &PoolOption, as_json: bool) -> Result<(), VmError> {
    let pool = opened(option)?;
    let Some(snapshot) = &place.snapshot else {
        let disk = pool.disk(&place.disk).map_err(missing)?;
        return match as_json {
            true => output::print_json(&json::disk::Disk::of(&disk)),
            false => output::print(&info_text(&disk)),
        };
    };
    let entry = entry_of(&pool, snapshot)?;
    let disks = disks_of(&entry);
    let Some((name, map)) = disks.into_iter().find(|(name, _)| *name == place.disk) else {
        return Err(no_disk_of(snapshot, &place.disk));
    };
    if as_json {
        let disk = json::disk::Disk::of_snapshot(&entry, map);
        return output::print_json(&disk);
    }
    output::print(&output::fields(&[
        ("disk", name),
        ("snapshot", entry.name.clone()),
        ("size", size_text(map.size_bytes)),
        ("used", output::frames_size(map.frames)),
        ("taken (UTC)", output::moment(entry.created_unix_ns)),
        ("from", origin(entry.foreign).to_owned()),
    ]))
}

fn info_text(disk: &DiskEntry) -> String {
    let own = disk.own_bytes.map(output::size);
    output::fields(&[
        ("disk", disk.name.clone()),
        ("size", size_text(disk.size_bytes)),
        ("used", output::frames_size(disk.blocks)),
        ("of its own", own.unwrap_or_else(|| "-".to_owned())),
        ("made (UTC)", output::moment(disk.created_unix_ns)),
        ("from", origin(disk.foreign).to_owned()),
        (
            "writer",
            disk.writer.clone().unwrap_or_else(|| "nobody".to_owned()),
        ),
        ("identity", disk.identity.to_string()),
    ])
}

/// A size, and its bytes where the unit rounds them.
fn size_text(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => output::size(bytes),
        _ => format!("{} ({bytes} bytes)", output::size(bytes)),
    }
}

/// `nvvmm disk resize`.
pub fn resize(
    name: &str,
    size: NewSize,
    option: &PoolOption,
    as_json: bool,
) -> Result<(), VmError> {
    let pool = opened(option)?;
    let now = pool.disk(name).map_err(missing)?;
    let size_bytes = size.bytes(now.size_bytes);
    match pool.resize_disk(name, size_bytes) {
        Err(error @ Error::DiskInUse { .. }) => match writer_of(&pool, name)? {
            Some(mut vm) => drop(vm.resize_disk(name, size_bytes)?),
            None => {
                return Err(VmError::from(error).with_remedy(
                    "shut its VM down ('nvvmm shutdown'), and make the disk larger before the VM \
                     starts again",
                ));
            }
        },
        done => done?,
    }
    let disk = pool.disk(name)?;
    if as_json {
        return output::print_json(&json::disk::Disk::of(&disk));
    }
    output::print(&format!(
        "disk {name} has {} now\n",
        size_text(disk.size_bytes)
    ))
}

/// The VM of this user that writes to a disk, if it answers.
fn writer_of(pool: &Pool, name: &str) -> Result<Option<ControlClient>, VmError> {
    let dir = RuntimeDir::of_user()?;
    for vm in names::running(&dir)? {
        let Ok(mut client) = dir.find(&vm).and_then(|entry| connect(&entry)) else {
            continue;
        };
        let has_disk = client.status().is_ok_and(|status| {
            let disks = status.disks.iter().map(|disk| &disk.disk);
            let mut written = disks.filter(|disk| !disk.read_only);
            status.pool == pool.path() && written.any(|disk| disk.pool_disk() == Some(name))
        });
        if has_disk {
            return Ok(Some(client));
        }
    }
    Ok(None)
}

/// `nvvmm disk rename`.
pub fn rename(name: &str, new: &str, option: &PoolOption) -> Result<(), VmError> {
    let pool = opened(option)?;
    pool.rename_disk(name, new).map_err(|error| match error {
        Error::DiskInUse { .. } => {
            VmError::from(error).with_remedy("stop that VM, and rename the disk then")
        }
        Error::NoDisk { .. } => missing(error),
        error => taken_name(error),
    })?;
    output::print(&format!("disk {name} is {new} now\n"))
}

/// `nvvmm disk rm`. Goes on after a name that cannot be removed; the exit code is that of the first
/// failure.
pub fn remove(arguments: &DiskRmArguments) -> Result<ExitCode, VmError> {
    let pool = opened(&arguments.pool)?;
    let there = pool.disks()?.into_iter();
    let there: Vec<String> = there.map(|disk| disk.name).collect();
    let chosen = Chosen::of(&arguments.choice(), Kind::Disk, &there);
    let mut removed = Vec::new();
    let code = chosen.each(|name| {
        match removed_from(&pool, name, arguments.dry_run) {
            Ok(disk) => removed.push(disk),
            Err(Error::NoDisk { .. }) if arguments.force => {}
            Err(error @ Error::DiskInUse { .. }) => {
                let remedy = "stop that VM first; 'nvvmm ps' lists the VMs";
                return Err(VmError::from(error).with_remedy(remedy));
            }
            Err(error) => return Err(missing(error)),
        }
        Ok(())
    });
    if arguments.json.json {
        output::print_json(&removed)?;
        return Ok(code);
    }
    let lines = removed.iter().map(|disk| match arguments.dry_run {
        true => format!("would remove disk {}\n", disk.disk),
        false => format!(
            "removed disk {}, freed {}\n",
            disk.disk,
            output::size(disk.freed_bytes)
        ),
    });
    output::print(&lines.collect::<String>())?;
    Ok(code)
}

fn removed_from(pool: &Pool, name: &str, dry_run: bool) -> Result<json::disk::RemovedDisk, Error> {
    let disk = pool.disk(name)?;
    if !dry_run {
        pool.remove_disk(name)?;
    }
    Ok(json::disk::RemovedDisk {
        disk: disk.name,
        freed_bytes: disk.own_bytes.unwrap_or(0),
    })
}

/// `nvvmm disk copy`.
pub fn copy(
    place: &DiskPlace,
    name: &str,
    option: &PoolOption,
    as_json: bool,
) -> Result<(), VmError> {
    let pool = opened(option)?;
    let copied = match &place.snapshot {
        None => pool.copy_disk(&place.disk, name).map_err(|error| {
            let remedy = of_a_snapshot("copy", &place.disk, name);
            in_use(error, &remedy)
        })?,
        Some(snapshot) => {
            let copied = pool.copy_disk_of(snapshot, &place.disk, name);
            copied.map_err(|error| match error {
                Error::NoDisk { .. } => no_disk_of(snapshot, &place.disk),
                error => taken_name(error),
            })?
        }
    };
    tell("copied", &copied, as_json)
}

fn tell(done: &str, disk: &DiskEntry, as_json: bool) -> Result<(), VmError> {
    if as_json {
        return output::print_json(&json::disk::Disk::of(disk));
    }
    output::print(&format!(
        "{done} disk {}: {}, {} of it in use\n",
        disk.name,
        size_text(disk.size_bytes),
        output::frames_size(disk.blocks)
    ))
}

/// Remedy for what can be done to the disk of a snapshot while its VM writes to the disk.
fn of_a_snapshot(command: &str, disk: &str, target: &str) -> String {
    format!(
        "use a snapshot of its VM: 'nvvmm snapshot VM now', then 'nvvmm disk {command} now:{disk} \
         {target}'"
    )
}

fn in_use(error: Error, remedy: &str) -> VmError {
    match error {
        Error::DiskInUse { .. } => VmError::from(error).with_remedy(remedy),
        Error::NoDisk { .. } => missing(error),
        error => taken_name(error),
    }
}

/// The error, with a remedy where a disk has the name already.
fn taken_name(error: Error) -> VmError {
    let Error::DiskNameTaken { name } = &error else {
        return error.into();
    };
    let remedy = format!(
        "choose another name, or remove that disk with 'nvvmm disk rm {name}' if it is not needed"
    );
    VmError::from(error).with_remedy(remedy)
}

/// The error, with a remedy where there is no such disk, and no name like it.
fn missing(error: Error) -> VmError {
    match &error {
        Error::NoDisk { near, .. } if near.is_empty() => {
            VmError::from(error).with_remedy("'nvvmm disk ls' lists the disks")
        }
        _ => error.into(),
    }
}

fn no_disk_of(snapshot: &str, disk: &str) -> VmError {
    VmError::new(
        ErrorKind::NotFound,
        format!("snapshot '{snapshot}' has no disk '{disk}'"),
    )
    .with_remedy(format!(
        "'nvvmm disk ls --snapshot {snapshot}' lists those that it has"
    ))
}

fn opened(option: &PoolOption) -> Result<Arc<Pool>, VmError> {
    pool_path::open(&pool_path::found(option)?)
}

fn entry_of(pool: &Pool, snapshot: &str) -> Result<SnapshotEntry, VmError> {
    Ok(pool.find(snapshot)?)
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;

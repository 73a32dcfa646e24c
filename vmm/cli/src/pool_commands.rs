//! `nvvmm pool create`, `grow`, `delete`, `upgrade`, `status` and `check`.

use std::path::Path;
use std::process::ExitCode;

use nvvmm::vm::check_host;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{
    CheckReport, CreateOptions, GrowOptions, Pool, PoolStatus, SnapshotEntry, counted, is_or_are,
};

use super::args::PoolOption;
use super::error::{self, EXIT_POOL_DAMAGED};
use super::file_size;
use super::json;
use super::output::{self, Column};
use super::pool_path;
use super::progress::Progress;
use super::values::NewSize;

/// Makes a pool.
pub fn make(path: &Path, size_bytes: u64, overcommit: bool) -> Result<(), VmError> {
    pool_path::absolute(path)?;
    if Pool::device_size_bytes(path)?.is_none() {
        file_size::check("pool", path, size_bytes)?;
    }
    let pool = Pool::create(
        path,
        &CreateOptions {
            size_bytes,
            overcommit,
        },
    )?;
    warn_of_small_medium(&pool, size_bytes);
    Ok(())
}

/// Tells the user when the medium has less for the pool than it now promises.
fn warn_of_small_medium(pool: &Pool, promised_bytes: u64) {
    let Ok(available_bytes) = pool.medium_available_bytes() else {
        return;
    };
    if !pool.overcommit() || available_bytes >= promised_bytes {
        return;
    }
    let text = format!(
        "the medium of the pool ({}) has {} left, and the pool promises {} more: VMs wait when it \
         is full",
        pool.medium(),
        output::size(available_bytes),
        output::size(promised_bytes)
    );
    error::warn(
        &VmError::new(ErrorKind::PoolFull, text)
            .with_remedy("make the medium larger, or remove other files from it"),
    );
}

/// `nvvmm pool create`.
pub fn create(path: &Path, size_bytes: Option<u64>, overcommit: bool) -> Result<(), VmError> {
    let size_bytes = match size_bytes {
        Some(size_bytes) => size_bytes,
        None => Pool::device_size_bytes(path)?.ok_or_else(|| {
            VmError::new(ErrorKind::Usage, "a pool in a file needs a size")
                .with_remedy("give it --size, for example --size 2G")
        })?,
    };
    make(path, size_bytes, overcommit)?;
    output::print(&format!(
        "made the pool {} of {}\n",
        path.display(),
        output::size(size_bytes)
    ))
}

/// `nvvmm pool grow`.
pub fn grow(
    option: &PoolOption,
    size: NewSize,
    overcommit: bool,
    as_json: bool,
) -> Result<(), VmError> {
    let path = pool_path::found(option)?;
    let pool = pool_path::open(&path)?;
    let size_bytes = size.bytes(pool.size_bytes());
    file_size::check("pool", &path, size_bytes)?;
    let grown = pool.grow(&GrowOptions {
        size_bytes,
        overcommit,
    })?;
    warn_of_small_medium(&pool, grown.size_bytes - grown.size_bytes_before);
    if as_json {
        return output::print_json(&json::pool::Growth::of(&path, &grown));
    }
    output::print(&format!(
        "the pool {} has {} now, {} of it new and free\n",
        path.display(),
        output::size(grown.size_bytes),
        output::frames_size(grown.blocks_added)
    ))
}

/// `nvvmm pool delete`.
pub fn delete(path: &Path) -> Result<(), VmError> {
    Pool::delete(path)?;
    output::print(&format!("deleted the pool {}\n", path.display()))
}

/// `nvvmm pool upgrade`.
pub fn upgrade(option: &PoolOption) -> Result<(), VmError> {
    let pool = pool_path::open(&pool_path::found(option)?)?;
    let version = pool.newest_version()?;
    output::print(&format!(
        "the pool {} has format version {version}, the newest\n",
        pool.path().display()
    ))
}

/// `nvvmm pool status`.
pub fn status(option: &PoolOption, as_json: bool) -> Result<(), VmError> {
    let pool = pool_path::open(&pool_path::found(option)?)?;
    let usage = Usage {
        by_snapshot: pool.snapshots()?,
        status: pool.status()?,
    };
    if as_json {
        output::print_json(&json::pool::Status::of(&usage.status, &usage.by_snapshot))
    } else {
        output::print(&usage_text(&usage))?;
        match check_host() {
            Ok(()) => Ok(()),
            // The engine that the table names is that of the medium, not of this user.
            Err(lack) => output::print(&format!(
                "\nthis user cannot run VMs here ('nvvmm doctor' shows why): {}\n",
                lack.message.replace('\n', "\n  ")
            )),
        }
    }
}

/// Status of a pool, and the space of each snapshot.
struct Usage {
    status: PoolStatus,
    by_snapshot: Vec<SnapshotEntry>,
}

fn usage_text(usage: &Usage) -> String {
    let mut text = status_text(&usage.status);
    if !usage.by_snapshot.is_empty() {
        text.push('\n');
        text.push_str(&snapshots_table(&usage.by_snapshot));
    }
    if !usage.status.holders.is_empty() {
        text.push('\n');
        text.push_str(&holders_table(&usage.status));
    }
    text
}

fn status_text(status: &PoolStatus) -> String {
    let blocks = |blocks: u64| output::frames_size(blocks);
    let engine = status.cow_engine.name();
    let overcommit = if status.overcommit {
        "allowed: the medium can have less space than the pool"
    } else {
        "no"
    };
    let removed = match status.orphans {
        0 => String::new(),
        orphans => format!(
            " (and {} that {} still in use)",
            counted(orphans, "removed snapshot"),
            is_or_are(orphans)
        ),
    };
    let incomplete = match status.incomplete {
        0 => String::new(),
        1 if status.snapshots == 1 => ", incomplete".to_owned(),
        incomplete => format!(", {incomplete} of them incomplete"),
    };
    let durability = &status.durability;
    output::fields(&[
        ("pool", status.path.display().to_string()),
        ("uuid", status.uuid.clone()),
        ("medium", status.medium.name().to_owned()),
        (
            "copy-on-write",
            format!("{engine}: {}", status.cow_engine_reason),
        ),
        (
            "durability",
            format!("{}: {}", durability.strongest, durability.reason),
        ),
        ("overcommit", overcommit.to_owned()),
        ("size", output::size(status.size_bytes)),
        ("snapshots, disks", blocks(status.snapshot_blocks)),
        ("leased to VMs", blocks(status.leased_blocks)),
        ("metadata", blocks(status.metadata_blocks)),
        ("free", blocks(status.free_blocks)),
        ("used on the medium", output::size(status.medium_bytes)),
        (
            "snapshots",
            format!("{}{incomplete}{removed}", status.snapshots),
        ),
        ("disks", status.disks.to_string()),
    ])
}

fn snapshots_table(snapshots: &[SnapshotEntry]) -> String {
    let columns = [
        Column::Text("SNAPSHOT"),
        Column::Number("OWN"),
        Column::Number("SHARED"),
    ];
    let sizes = |entry: &SnapshotEntry| {
        [entry.own_bytes, entry.shared_bytes]
            .map(|bytes| bytes.map_or_else(String::new, output::size))
    };
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|entry| [vec![entry.name.clone()], sizes(entry).to_vec()].concat())
        .collect();
    output::table(&columns, &rows)
}

fn holders_table(status: &PoolStatus) -> String {
    let columns = [
        Column::Text("USED BY"),
        Column::Number("PID"),
        Column::Number("IN USE"),
        Column::Number("LEASED CHUNKS"),
        Column::Number("PINNED SNAPSHOTS"),
    ];
    let rows: Vec<Vec<String>> = status
        .holders
        .iter()
        .map(|holder| {
            vec![
                holder.name.clone(),
                holder.pid.to_string(),
                output::frames_size(holder.blocks_in_use.into()),
                holder.leased_chunks.to_string(),
                holder.pinned.len().to_string(),
            ]
        })
        .collect();
    output::table(&columns, &rows)
}

/// `nvvmm pool check`. Exit code 6 when there are findings.
pub fn check(option: &PoolOption, as_json: bool) -> Result<ExitCode, VmError> {
    let path = pool_path::found(option)?;
    let mut shown = Progress::of_bytes("check")?;
    let report = pool_path::open_confined(&path)?
        .check_showing(&mut |done, total| shown.show(done, Some(total)))?;
    drop(shown);
    if as_json {
        output::print_json(&json::pool::Check::of(&path, &report))?;
    } else {
        output::print(&check_text(&path, &report))?;
    }
    if report.is_clean() {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(EXIT_POOL_DAMAGED.into())
    }
}

fn check_text(path: &Path, report: &CheckReport) -> String {
    let CheckReport {
        findings,
        blocks_checked,
        nodes_checked,
        snapshots_checked,
    } = report;
    let mut text: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    let found = match findings.len() {
        0 => "no findings".to_owned(),
        count => counted(count as u64, "finding"),
    };
    text.push_str(&format!(
        "{}: {found} in {}, {} and {}\n",
        path.display(),
        counted(*blocks_checked, "block"),
        counted(*nodes_checked, "map node"),
        counted(*snapshots_checked, "snapshot")
    ));
    text
}

#[cfg(test)]
#[path = "pool_commands_test.rs"]
mod pool_commands_test;

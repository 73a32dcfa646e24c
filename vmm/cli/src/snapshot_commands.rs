//! `nvvmm snapshots` and `nvvmm rm`.

use std::process::ExitCode;

use nvvmm::control::RuntimeDir;
use nvvmm::control::spares::SpareOrder;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, Error, Pool, Removed, SnapshotEntry, SnapshotKind};

use super::args::{PoolOption, RmArguments};
use super::names::{Chosen, Kind};
use super::output::{self, Column};
use super::snapshot_tree::{self, TreeNode};
use super::{json, pool_path, spares};

/// `nvvmm snapshots`.
pub fn list(option: &PoolOption, quiet: bool, as_json: bool) -> Result<(), VmError> {
    // The default pool that nobody has needed yet has no snapshots.
    let pool = pool_path::found_if_any(option)?;
    let pool = pool.map(|path| pool_path::open(&path)).transpose()?;
    if quiet {
        return output::print_names(&pool.map_or(Ok(Vec::new()), |pool| names_in(&pool))?);
    }
    let snapshots = match pool {
        Some(pool) => pool.snapshots()?,
        None => Vec::new(),
    };
    if as_json {
        return output::print_json(&json::snapshot::Snapshot::all(&snapshots));
    }
    if snapshots.is_empty() {
        return output::print("no snapshots\n");
    }
    output::print(&tree_table(&snapshots))
}

/// The snapshots as a table whose first column is a tree, the oldest first.
fn tree_table(snapshots: &[SnapshotEntry]) -> String {
    let mut by_age: Vec<&SnapshotEntry> = snapshots.iter().collect();
    by_age.sort_by_key(|s| s.id.get());
    let nodes: Vec<TreeNode> = by_age
        .iter()
        .map(|s| TreeNode {
            id: s.id.get(),
            parent: s.parent.map(|p| p.get()),
            name: s.name.clone(),
        })
        .collect();
    let uncounted = || "-".to_owned();
    let columns = [
        Column::Text("NAME"),
        Column::Text("KIND"),
        Column::Text("TAKEN (UTC)"),
        Column::Number("MEMORY"),
        Column::Number("OWN"),
        Column::Number("SHARED"),
    ];
    let rows: Vec<Vec<String>> = snapshot_tree::draw(&nodes)
        .into_iter()
        .map(|(index, name)| {
            let snapshot = by_age[index];
            vec![
                name,
                kind_text(snapshot),
                output::moment(snapshot.created_unix_ns),
                match snapshot.has_disks_only() {
                    true => uncounted(),
                    false => output::size(snapshot.memory_bytes),
                },
                snapshot.own_bytes.map_or_else(uncounted, output::size),
                snapshot.shared_bytes.map_or_else(uncounted, output::size),
            ]
        })
        .collect();
    output::table(&columns, &rows)
}

fn kind_text(snapshot: &SnapshotEntry) -> String {
    let kind = match snapshot.has_disks_only() {
        true => "disks",
        false => kind_word(snapshot.kind),
    };
    if snapshot.incomplete {
        format!("{kind}, incomplete")
    } else if snapshot.foreign {
        format!("{kind}, foreign")
    } else {
        kind.to_owned()
    }
}

/// The word that `--json` has, too.
pub(super) fn kind_word(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::Vm => "vm",
        SnapshotKind::Process => "process",
    }
}

/// Names of the snapshots in a pool, the oldest first.
fn names_in(pool: &Pool) -> Result<Vec<String>, VmError> {
    let entries = pool.entries()?.into_iter();
    Ok(entries.map(|entry| entry.name).collect())
}

/// `nvvmm rm`. Goes on after a name that cannot be removed; the exit code is that of the first
/// failure.
pub fn remove(arguments: &RmArguments) -> Result<ExitCode, VmError> {
    let pool = pool_path::open(&pool_path::found(&arguments.pool)?)?;
    let there = match arguments.choice().needs_list() || arguments.dry_run {
        true => names_in(&pool)?,
        false => Vec::new(),
    };
    let chosen = Chosen::of(&arguments.choice(), Kind::Snapshot, &there);
    let spares = |name: &str| {
        // They keep the blocks of the snapshot.
        let is_meant = |order: &SpareOrder| order.pool == pool.path() && order.snapshot == name;
        spares::end_those_of(&RuntimeDir::of_user()?, is_meant)
    };
    let mut removed = Vec::new();
    let code = chosen.each(|name| {
        if arguments.dry_run {
            return would_remove(name, &there, arguments.force);
        }
        if pool.find(name).is_ok() {
            spares(name)?;
        }
        match pool.remove(name) {
            Ok(done) => removed.push(removed_name(name, done)),
            Err(Error::NotFound { .. }) if arguments.force => {}
            Err(error) => return Err(with_vm_hint(error.into(), name)),
        }
        Ok(())
    });
    if arguments.json.json {
        output::print_json(&removed)?;
    } else {
        output::print(&removed.iter().map(removed_text).collect::<String>())?;
    }
    Ok(code)
}

fn would_remove(name: &str, there: &[String], force: bool) -> Result<(), VmError> {
    match there.iter().any(|known| known == name) {
        true => output::print(&format!("would remove {name}\n")),
        false if force => Ok(()),
        false => Err(with_vm_hint(
            VmError::new(
                ErrorKind::NotFound,
                format!("there is no snapshot '{name}'"),
            )
            .with_remedy("'nvvmm snapshots' lists the snapshots"),
            name,
        )),
    }
}

/// Tells those who want to remove a VM how that is done.
fn with_vm_hint(error: VmError, name: &str) -> VmError {
    if error.kind != ErrorKind::NotFound {
        return error;
    }
    let Ok(dir) = RuntimeDir::of_user() else {
        return error;
    };
    if dir.is_living(name).unwrap_or(false) {
        return error.with_remedy(format!("'{name}' is a VM: 'nvvmm stop {name}' ends it"));
    }
    let past = dir.past().unwrap_or_default();
    match past.iter().any(|life| life.start.vm == name) {
        true => error.with_remedy(format!(
            "'{name}' is a VM that has ended: 'nvvmm rm-vm {name}' removes what is kept of it"
        )),
        false => error,
    }
}

fn removed_name(name: &str, done: Removed) -> json::snapshot::Removed {
    let Removed {
        blocks_freed,
        deferred,
    } = done;
    json::snapshot::Removed {
        snapshot: name.to_owned(),
        freed_bytes: blocks_freed.saturating_mul(BLOCK_SIZE_BYTES),
        deferred,
    }
}

fn removed_text(removed: &json::snapshot::Removed) -> String {
    let json::snapshot::Removed {
        snapshot: name,
        freed_bytes,
        deferred,
    } = removed;
    if *deferred {
        format!(
            "removed {name}; a running VM still uses it, and its space is freed when that VM does \
             not need it any more\n"
        )
    } else {
        format!("removed {name}, freed {}\n", output::size(*freed_bytes))
    }
}

#[cfg(test)]
#[path = "snapshot_commands_test.rs"]
mod snapshot_commands_test;

//! `nvvmm snapshots` and `nvvmm rm`.

use std::path::PathBuf;

use nvvmm::VmError;
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, Removed, SnapshotEntry, SnapshotKind};

use super::args::PoolOption;
use super::output::{self, Column};
use super::snapshot_tree::{self, TreeNode};
use super::{error, json, pool_path};

/// `nvvmm snapshots`.
pub fn list(option: &PoolOption, as_json: bool) -> Result<(), VmError> {
    // The default pool that nobody has needed yet has no snapshots.
    let snapshots = match pool_path::found_if_any(option)? {
        Some(path) => pool_path::open(&path)?.snapshots()?,
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
                output::size(snapshot.memory_bytes),
                snapshot.own_bytes.map_or_else(uncounted, output::size),
                snapshot.shared_bytes.map_or_else(uncounted, output::size),
            ]
        })
        .collect();
    output::table(&columns, &rows)
}

fn kind_text(snapshot: &SnapshotEntry) -> String {
    let kind = kind_word(snapshot.kind);
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

/// `nvvmm rm`. Goes on after a name that cannot be removed; the last failure is the command's.
pub fn remove(names: &[String], option: &PoolOption, as_json: bool) -> Result<(), VmError> {
    let path: PathBuf = pool_path::found(option)?;
    let pool = pool_path::open(&path)?;
    let mut removed = Vec::new();
    let mut failure: Option<VmError> = None;
    for name in names {
        match pool.remove(name) {
            Ok(Removed {
                blocks_freed,
                deferred,
            }) => {
                let freed_bytes = blocks_freed.saturating_mul(BLOCK_SIZE_BYTES);
                removed.push(json::snapshot::Removed {
                    snapshot: name.clone(),
                    freed_bytes,
                    deferred,
                });
            }
            Err(e) => {
                if let Some(earlier) = failure.replace(e.into()) {
                    error::print(&earlier);
                }
            }
        }
    }
    if as_json {
        output::print_json(&removed)?;
    } else {
        output::print(&removed.iter().map(removed_text).collect::<String>())?;
    }
    failure.map_or(Ok(()), Err)
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

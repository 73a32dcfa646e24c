//! `nvvmm remote`.

use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm_remote::{GcOptions, GcReport, RemoteSnapshot, Store, Use, VerifyReport};
use nvvmm_snapshot::{MoveProgress, TimeText, counted};

use super::args::{RemoteCommand, StoreOption};
use super::error::EXIT_POOL_DAMAGED;
use super::interruption::{ends_on_signal, unless};
use super::json::remote::{Collection, RemovedRemote, Stored, Verification};
use super::output::{self, Column};
use super::progress::Progress;
use super::push_command::{key_in, reach};
use super::remote_error::told;
use super::snapshot_commands::kind_word;
use super::{confine, error};

/// `nvvmm remote ...`.
pub fn run(command: RemoteCommand) -> Result<ExitCode, VmError> {
    match command {
        RemoteCommand::Ls { store, quiet, json } => list(&store, quiet, json.json),
        RemoteCommand::Rm {
            store,
            snapshots,
            json,
        } => remove(&store, &snapshots, json.json),
        RemoteCommand::Gc {
            store,
            end_push,
            json,
        } => collect(&store, end_push, json.json),
        RemoteCommand::Verify { store, json } => verify(&store, json.json),
    }
}

/// Opens a store in a process that is confined to it from now on, as far as it can be.
fn open(option: &StoreOption, writes: bool) -> Result<Store, VmError> {
    let key = key_in(option.key.as_deref())?;
    let interrupted = ends_on_signal()?;
    confine::to_store(&reach(&option.url, writes), None)?;
    let mut store = Store::open(&option.url, key.as_ref(), Use::Existing).map_err(told)?;
    store.end_on(&interrupted);
    Ok(store)
}

fn list(option: &StoreOption, quiet: bool, as_json: bool) -> Result<ExitCode, VmError> {
    let (snapshots, faults) = open(option, false)?.snapshots().map_err(told)?;
    if quiet {
        let names = snapshots.iter().map(|snapshot| &snapshot.header.name);
        output::print_names(&names.collect::<Vec<_>>())?;
    } else if as_json {
        output::print_json(&Stored::all(&snapshots))?;
    } else {
        output::print(&table(&snapshots))?;
    }
    let mut code = ExitCode::SUCCESS;
    for fault in faults {
        let fault = told(fault);
        error::print(&fault);
        code = error::exit_code(fault.kind).into();
    }
    Ok(code)
}

fn table(snapshots: &[RemoteSnapshot]) -> String {
    if snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let columns = [
        Column::Text("NAME"),
        Column::Text("KIND"),
        Column::Text("TAKEN (UTC)"),
        Column::Number("MEMORY"),
        Column::Number("STORED"),
    ];
    let rows = snapshots.iter().map(|snapshot| {
        let header = &snapshot.header;
        vec![
            header.name.clone(),
            kind_word(header.kind).to_owned(),
            output::moment(header.created_unix_ns),
            output::size(header.memory_bytes),
            output::size(snapshot.stored_bytes),
        ]
    });
    output::table(&columns, &rows.collect::<Vec<_>>())
}

fn remove(option: &StoreOption, names: &[String], as_json: bool) -> Result<ExitCode, VmError> {
    let store = open(option, true)?;
    let mut removed = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match store.remove(name).map_err(told) {
            Ok(done) => removed.push(done),
            Err(failure) => {
                error::print(&failure);
                code = error::exit_code(failure.kind).into();
            }
        }
    }
    if as_json {
        output::print_json(&removed.iter().map(RemovedRemote::of).collect::<Vec<_>>())?;
    } else {
        let lines = removed.iter();
        let lines = lines.map(|done| format!("removed {} from the store\n", done.name));
        output::print(&lines.collect::<String>())?;
    }
    Ok(code)
}

fn collect(
    option: &StoreOption,
    end_push: Option<nvvmm_remote::ObjectId>,
    as_json: bool,
) -> Result<ExitCode, VmError> {
    let report = open(option, true)?.gc(&GcOptions { end_push });
    let report = report.map_err(told)?;
    match as_json {
        true => output::print_json(&Collection::of(&report))?,
        false => output::print(&collected_text(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn collected_text(report: &GcReport) -> String {
    let mut text = format!(
        "{} in {} of {}\n",
        counted(report.snapshots_count, "snapshot"),
        counted(report.packs_count, "pack"),
        output::size(report.packs_bytes)
    );
    if report.deleted_count > 0 {
        text += &format!(
            "deleted {} of {}\n",
            counted(report.deleted_count, "pack"),
            output::size(report.deleted_bytes)
        );
    }
    if report.condemned_count > 0 {
        text += &format!(
            "condemned {} of {}: a later run deletes what no push under way counts on\n",
            counted(report.condemned_count, "pack"),
            output::size(report.condemned_bytes)
        );
    }
    for push in &report.pushes {
        text += &format!(
            "push {} began {} ago; if it is dead, end it with --end-push {}\n",
            push.id,
            TimeText(push.age),
            push.id
        );
    }
    text
}

fn verify(option: &StoreOption, as_json: bool) -> Result<ExitCode, VmError> {
    let store = open(option, false)?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("verify")?;
    let report = store.verify(&mut |now: MoveProgress| {
        shown.show(now.bytes_done, Some(now.bytes_total));
        unless(&interrupted)
    });
    let report = report.map_err(told)?;
    drop(shown);
    match as_json {
        true => output::print_json(&Verification::of(&report))?,
        false => output::print(&verified_text(&report))?,
    }
    Ok(match report.faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => EXIT_POOL_DAMAGED.into(),
    })
}

fn verified_text(report: &VerifyReport) -> String {
    let mut text = format!(
        "verified {}: {} in {}, {}\n",
        counted(report.snapshots_count, "snapshot"),
        counted(report.pieces_count, "piece"),
        counted(report.packs_count, "pack"),
        output::size(report.read_bytes)
    );
    for fault in &report.faults {
        text += &format!("{}\n", fault.what);
        if !fault.snapshots.is_empty() {
            text += &format!("  needed by: {}\n", fault.snapshots.join(", "));
        }
    }
    if report.faults.is_empty() {
        text += "nothing is damaged\n";
    }
    text
}

#[cfg(test)]
#[path = "remote_commands_test.rs"]
mod remote_commands_test;

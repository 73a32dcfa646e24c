//! `nvvmm adopt`: the owner of a pool trusts a snapshot that came from elsewhere.

use std::io::{BufRead, IsTerminal, stdin};

use nvvmm::checkpoint::blob::SavedVm;
use nvvmm::process::{SavedProcess, first_privilege};
use nvvmm::spec::VmSpec;
use nvvmm::{ErrorKind, Pool, SnapshotEntry, VmError};
use nvvmm_snapshot::SnapshotKind;

use super::args::AdoptArguments;
use super::json::snapshot::Adopted;
use super::terminal::{shown_in_line, tell};
use super::{output, pool_path};

/// `nvvmm adopt`.
pub fn run(arguments: &AdoptArguments) -> Result<(), VmError> {
    let name = &arguments.snapshot;
    let pool = pool_path::open(&pool_path::found(&arguments.pool)?)?;
    let entry = pool.find(name)?;
    let mut result = Adopted {
        snapshot: name.clone(),
        adopted: false,
        trusted: Vec::new(),
    };
    if entry.foreign {
        result.trusted = trusted(&pool, &entry)?;
        let is_asked = !arguments.json.json;
        if is_asked {
            output::print(&trusted_text(name, &result.trusted))?;
        }
        let is_trusted = arguments.yes || is_asked && confirmed()?;
        if !is_trusted {
            return Err(
                VmError::new(ErrorKind::Refused, format!("'{name}' was not adopted"))
                    .with_remedy("add --yes, or answer with yes on a terminal"),
            );
        }
        result.adopted = pool.adopt(name)?;
    }
    if arguments.json.json {
        return output::print_json(&result);
    }
    output::print(&match result.adopted {
        true => format!("adopted {name}\n"),
        false => format!("{name} did not come from elsewhere; there is nothing to adopt\n"),
    })
}

/// All that a restore obeys once the snapshot is adopted.
fn trusted(pool: &Pool, entry: &SnapshotEntry) -> Result<Vec<String>, VmError> {
    let state = pool.read_state(entry.id)?;
    match entry.kind {
        SnapshotKind::Vm if entry.has_disks_only() => Ok(vec!["it has disks only".to_owned()]),
        SnapshotKind::Vm => Ok(paths(&SavedVm::decode(&state)?.spec)),
        SnapshotKind::Process => {
            let image = SavedProcess::decode(&state)?.image;
            Ok(vec![match first_privilege(&image) {
                Ok(Some(privilege)) => privilege,
                Ok(None) => "no process of it would have privileges".to_owned(),
                Err(error) => format!("who its processes run as cannot be read: {error}"),
            }])
        }
    }
}

/// The paths of the host that a machine names, and its command line.
fn paths(spec: &VmSpec) -> Vec<String> {
    let file = |what: &str, path: &std::path::Path| format!("{what} {}", path.display());
    let kernel = spec.kernel.iter().map(|path| file("kernel", path));
    let initramfs = spec.initramfs.iter().map(|path| file("initramfs", path));
    let cmdline = Some(&spec.cmdline).filter(|cmdline| !cmdline.is_empty());
    let disks = spec.disks().filter_map(|disk| {
        let mode = if disk.read_only { "" } else { "writable " };
        Some(file(&format!("{mode}disk"), disk.path()?))
    });
    { kernel.chain(initramfs) }
        .chain(cmdline.map(|cmdline| format!("command line {cmdline}")))
        .chain(disks)
        .collect()
}

fn trusted_text(name: &str, trusted: &[String]) -> String {
    let mut text = match trusted.is_empty() {
        true => format!("{name} names nothing of this host\n"),
        false => format!("{name} came from elsewhere. When it is restored, this is obeyed:\n"),
    };
    for line in trusted {
        text.push_str(&format!("  {}\n", shown_in_line(line)));
    }
    text
}

/// Asks on the terminal. False without one.
fn confirmed() -> Result<bool, VmError> {
    if !stdin().is_terminal() {
        return Ok(false);
    }
    tell("trust it? [y/N] ");
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer);
    read.map_err(|e| VmError::io("read the answer", &e))?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}

#[cfg(test)]
#[path = "adopt_command_test.rs"]
mod adopt_command_test;

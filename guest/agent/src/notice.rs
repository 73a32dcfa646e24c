//! Actions in a guest that was restored.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nvvmm_protocol::{Restored, Role};

use crate::{connections, sys};

/// Places where programs of the guest learn of a restore.
pub struct Places {
    /// A file with what is known of the last restore, one `NAME=value` a line.
    pub file: PathBuf,
    /// A directory with programs that are run after each restore, in the order of their names.
    pub hooks: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            file: "/run/nvvmm/restored".into(),
            hooks: "/etc/nvvmm/restored.d".into(),
        }
    }
}

/// Variable that leaves TCP connections as they are after a restore.
const KEEP_CONNECTIONS: &str = "NVVMM_KEEP_CONNECTIONS";

/// Ends TCP connections to other machines, unless the agent's environment says otherwise: they
/// cannot live on, and programs are to learn it now. Returns what failed.
pub fn end_connections() -> Vec<String> {
    if std::env::var_os(KEEP_CONNECTIONS).is_some() {
        return Vec::new();
    }
    match connections::end_all() {
        Ok(_) => Vec::new(),
        Err(error) => vec![format!("cannot end connections: {error}")],
    }
}

/// Does everything that a restore needs. Returns what failed. Entropy comes first, because a copy
/// must not draw the same numbers as another one.
pub fn act_on(restored: &Restored, places: &Places) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            failures.push(format!("{what}: {error}"));
        }
    };
    note(
        "cannot reseed the entropy",
        sys::add_entropy(&restored.seed),
    );
    if restored.step_clock {
        note(
            "cannot set the time of day",
            sys::set_time_of_day(restored.host_time_ns),
        );
    }
    failures.extend(tell_guest(restored, places));
    failures
}

/// Writes the file and runs the hooks. Returns what failed.
pub fn tell_guest(restored: &Restored, places: &Places) -> Vec<String> {
    let facts = facts(restored);
    let mut failures = Vec::new();
    if let Err(error) = write_file(&facts, places) {
        failures.push(format!("cannot write {}: {error}", places.file.display()));
    }
    match hooks(places) {
        Ok(hooks) => failures.extend(hooks.iter().filter_map(|hook| run_hook(hook, &facts).err())),
        Err(error) => failures.push(format!("cannot read {}: {error}", places.hooks.display())),
    }
    failures
}

/// Facts for programs of the guest, as names of variables and values.
fn facts(restored: &Restored) -> [(&'static str, String); 5] {
    let role = match restored.role {
        Role::Original => "original",
        Role::Copy => "copy",
    };
    [
        ("NVVMM_SNAPSHOT", restored.snapshot.clone()),
        ("NVVMM_VM", restored.vm.clone()),
        ("NVVMM_ROLE", role.to_owned()),
        ("NVVMM_SLEPT_NS", restored.slept_ns.to_string()),
        ("NVVMM_HOST_TIME_NS", restored.host_time_ns.to_string()),
    ]
}

/// Replaces the file as a whole, so that a reader finds one restore and not two halves.
fn write_file(facts: &[(&str, String)], places: &Places) -> io::Result<()> {
    if let Some(directory) = places.file.parent() {
        fs::create_dir_all(directory)?;
    }
    let lines: String = facts
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    let new = places.file.with_extension("new");
    fs::write(&new, lines)?;
    fs::rename(&new, &places.file)
}

/// The programs in the directory; none when there is no directory.
fn hooks(places: &Places) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(&places.hooks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let mut hooks: Vec<_> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_program)
        .collect();
    hooks.sort();
    Ok(hooks)
}

fn run_hook(hook: &PathBuf, facts: &[(&'static str, String)]) -> Result<(), String> {
    let failed = |why: String| format!("{}: {why}", hook.display());
    let status = Command::new(hook)
        .envs(facts.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .status()
        .map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string()))
    }
}

#[cfg(test)]
#[path = "notice_test.rs"]
mod notice_test;

//! `nvvmm start`: a VM that has ended is started again, as its record says.
//!
//! The record has the arguments of the command that started the VM first. They are read as those of
//! a command line are, and carried out in the directory of that command. This process starts itself
//! once more with its own arguments to be the VM process ([`super::detach`]), which then reads the
//! same record.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use nix::unistd::geteuid;
use nvvmm::control::RuntimeDir;
use nvvmm::control::life::{End, Life};
use nvvmm::{ErrorKind, VmError};

use super::args::{
    Arguments, Command, ConsoleChoice, PoolOption, StartAgainArguments, StartArguments,
};
use super::launch::{self, Given};
use super::{detach, terminal::tell};

/// `nvvmm start`.
pub fn run(arguments: &StartAgainArguments) -> Result<ExitCode, VmError> {
    let life = RuntimeDir::of_user()?.past_of(&arguments.vm)?;
    let command = command_of(&life)?;
    let given = Given {
        arguments: life.start.arguments.clone(),
        directory: life.start.directory.clone(),
    };
    go_to_directory(&life)?;
    if let (End::Snapshotted, Some(snapshot), false) =
        (life.end(), &life.state.text, detach::is_child())
    {
        let vm = &arguments.vm;
        tell(&format!(
            "nvvmm: {vm} ended with the snapshot {snapshot}; \
             'nvvmm restore {snapshot} --name {vm}' continues from there, this begins anew\n"
        ));
    }
    let again = |start: &mut StartArguments| {
        start.name = Some(arguments.vm.clone());
        start.detach = true;
        start.json = arguments.json;
        if start.console == Some(ConsoleChoice::Stdio) {
            start.console = None;
        }
        if let Some(pool) = &life.start.pool {
            start.pool = PoolOption::of(Some(pool.into()));
        }
        // The record is in the directory of the user whose VM it was.
        if !geteuid().is_root() {
            (start.uid, start.gid) = (None, None);
        }
    };
    match command {
        Command::Run(mut run) => {
            again(&mut run.start);
            launch::run(run, &given)
        }
        Command::Restore(mut restore) => {
            again(&mut restore.start);
            // It was one of several.
            restore.count = None;
            launch::restore(restore, &given)
        }
        _ => Err(not_startable(
            &arguments.vm,
            "it was not started by a command",
        )),
    }
}

/// The command that started the VM.
fn command_of(life: &Life) -> Result<Command, VmError> {
    let vm = &life.start.vm;
    let kept = life.start.arguments.as_ref().ok_or_else(|| {
        not_startable(
            vm,
            "its arguments are not in its record: too long, or not UTF-8",
        )
    })?;
    let line = std::iter::once("nvvmm").chain(kept.iter().map(String::as_str));
    let read = Arguments::try_parse_from(line).map_err(|error| {
        let first = error.to_string();
        let first = first.lines().next().unwrap_or_default().to_owned();
        not_startable(
            vm,
            &format!("this nvvmm does not take its arguments: {first}"),
        )
    })?;
    Ok(read.command)
}

/// Relative paths are those of the directory in which the VM was started first. The command that
/// waits only looks if it can be reached.
fn go_to_directory(life: &Life) -> Result<(), VmError> {
    let vm = &life.start.vm;
    let directory = life.start.directory.as_deref();
    let directory = directory.ok_or_else(|| {
        not_startable(
            vm,
            "the directory in which it was started is not in its record",
        )
    })?;
    let before = std::env::current_dir();
    std::env::set_current_dir(Path::new(directory)).map_err(|error| {
        let why = format!("the directory in which it was started, {directory}: {error}");
        not_startable(vm, &why)
    })?;
    match before {
        Ok(before) if !detach::is_child() => std::env::set_current_dir(before)
            .map_err(|error| VmError::io("return to the working directory", &error)),
        _ => Ok(()),
    }
}

fn not_startable(vm: &str, why: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("VM '{vm}' cannot be started from its record: {why}"),
    )
    .with_remedy(format!(
        "start it with 'nvvmm run' or 'nvvmm restore' and --name {vm}"
    ))
}

#[cfg(test)]
#[path = "start_command_test.rs"]
mod start_command_test;

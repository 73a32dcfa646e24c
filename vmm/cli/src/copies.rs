//! `nvvmm restore --count`: several VMs of one snapshot, all of them or none.
//!
//! Spare VMs are taken first. The others are VM processes that this command starts, a few at a
//! time: a start waits more than it works.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::control::registry::check_vm_name;
use nvvmm::control::{ControlClient, RuntimeDir, VmStatus};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{TimeText, counted};

use super::args::RestoreArguments;
use super::json::vm::Vm;
use super::launch::Given;
use super::{detach, error, output, pool_path, restore_notes, spares};

/// Starts under way at a time, for each CPU.
const AT_ONCE_PER_CPU: usize = 4;
/// Time for the end of VMs that were started when another one could not be.
const END_TIMEOUT: Duration = Duration::from_secs(30);
const END_POLL: Duration = Duration::from_millis(10);

/// Starts `count` VMs.
///
/// # Errors
/// One of them could not be started; those that were have ended again.
pub fn run(arguments: &RestoreArguments, count: u32, given: &Given) -> Result<ExitCode, VmError> {
    let began = Instant::now();
    let names = names(arguments.start.name.as_deref(), count)?;
    let pool = pool_path::found(&arguments.start.pool)?;
    let dir = RuntimeDir::of_user()?;
    let spares = match spares::fits(arguments) {
        true => spares::rename(&dir, arguments, (&pool, &names), given)?,
        false => Vec::new(),
    };
    let start_one = |at: usize| {
        let gone_on = match spares.get(at) {
            Some(paths) => spares::go_on(&dir, arguments, &pool, paths)?,
            None => None,
        };
        match gone_on {
            Some(status) => Ok((status, Vec::new())),
            None => detach::start_one(names[at].as_deref()),
        }
    };
    let started = Started::default();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once().min(names.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    // Those that have their names already must be told, or end.
                    let must = at < spares.len();
                    if at >= names.len() || started.has_failed() && !must {
                        return;
                    }
                    started.note(start_one(at));
                }
            });
        }
    });
    spares::refill(&pool, &arguments.snapshot);
    let (mut vms, warnings, failed) = started.into_parts();
    if let Some(cause) = failed {
        return Err(end_all(&vms, count, cause));
    }
    warnings.iter().for_each(error::warn);
    let place = |vm: &VmStatus| {
        names
            .iter()
            .position(|name| name.as_ref() == Some(&vm.name))
    };
    vms.sort_by_cached_key(|vm| (place(vm), vm.pid));
    tell(arguments, &vms, began)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(arguments: &RestoreArguments, vms: &[VmStatus], began: Instant) -> Result<(), VmError> {
    let names: Vec<&String> = vms.iter().map(|vm| &vm.name).collect();
    if arguments.start.json {
        let all: Vec<Vm> = vms.iter().map(Vm::of).collect();
        output::print_json(&all)?;
    } else if arguments.start.quiet {
        output::print_names(&names)?;
    } else {
        let (first, last) = (names.first(), names.last());
        let (first, last) = (first.map_or("", |n| n), last.map_or("", |n| n));
        let what = if arguments.start.paused {
            "are paused"
        } else {
            "run"
        };
        output::print(&format!(
            "{} of {} {what}, {first} to {last}, started in {}\n",
            counted(vms.len() as u64, "VM"),
            arguments.snapshot,
            TimeText(began.elapsed())
        ))?;
    }
    vms.first().into_iter().for_each(restore_notes::tell_of);
    Ok(())
}

fn at_once() -> usize {
    AT_ONCE_PER_CPU * thread::available_parallelism().map_or(1, usize::from)
}

/// Names of the VMs; without one given, each makes one up. Refuses one that is taken.
fn names(given: Option<&str>, count: u32) -> Result<Vec<Option<String>>, VmError> {
    let Some(given) = given else {
        return Ok(vec![None; count as usize]);
    };
    let names: Vec<String> = (1..=count)
        .map(|number| format!("{given}-{number}"))
        .collect();
    names.iter().try_for_each(|name| check_vm_name(name))?;
    let living = super::names::running(&RuntimeDir::of_user()?)?;
    if let Some(taken) = names.iter().find(|name| living.contains(name)) {
        return Err(VmError::new(
            ErrorKind::Refused,
            format!("the name '{taken}' is taken; no VM was started"),
        )
        .with_remedy(format!(
            "choose another --name, or end that VM with 'nvvmm stop {taken}'"
        )));
    }
    Ok(names.into_iter().map(Some).collect())
}

/// VMs that were started so far.
#[derive(Default)]
struct Started {
    parts: Mutex<(Vec<VmStatus>, Vec<VmError>, Option<VmError>)>,
}

impl Started {
    fn note(&self, started: Result<(VmStatus, Vec<VmError>), VmError>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        match started {
            Ok((status, warnings)) => {
                parts.0.push(status);
                // The same for each.
                for warning in warnings {
                    if !parts.1.iter().any(|known| known.message == warning.message) {
                        parts.1.push(warning);
                    }
                }
            }
            Err(cause) => {
                parts.2.get_or_insert(cause);
            }
        }
    }

    fn has_failed(&self) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.2.is_some()
    }

    fn into_parts(self) -> (Vec<VmStatus>, Vec<VmError>, Option<VmError>) {
        self.parts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the VMs that were started. Gives the error of the command.
fn end_all(vms: &[VmStatus], count: u32, cause: VmError) -> VmError {
    let mut left: Vec<&VmStatus> = vms.iter().collect();
    if let Ok(dir) = RuntimeDir::of_user() {
        for vm in vms {
            let paths = dir.paths(&vm.name);
            let asked = ControlClient::connect(&paths.control).and_then(|mut vm| vm.stop());
            if let Err(error) = asked {
                tracing::info!("{}: {error}", vm.name);
            }
        }
        let until = Instant::now() + END_TIMEOUT;
        while !left.is_empty() && Instant::now() < until {
            left.retain(|vm| dir.is_living(&vm.name).unwrap_or(false));
            thread::sleep(END_POLL);
        }
    }
    let ended = vms.len() - left.len();
    let mut text = format!(
        "not all of {} could be started: {}; {} that ran already ended again",
        counted(count, "VM"),
        cause.message,
        counted(ended as u64, "VM")
    );
    for vm in left {
        text.push_str(&format!("; {} still runs", vm.name));
    }
    VmError {
        message: text,
        ..cause
    }
}

#[cfg(test)]
#[path = "copies_test.rs"]
mod copies_test;

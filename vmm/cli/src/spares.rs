//! VMs that stand by: they are taken, made in the background, and ended.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::VmError;
use nvvmm::control::registry::Entry;
use nvvmm::control::spares::SpareOrder;
use nvvmm::control::{
    ControlClient, NameChoice, RuntimeDir, TakeRequest, VmRuntimePaths, VmStatus,
};

use super::args::{ConsoleChoice, RebootChoice, RestoreArguments};
use super::launch::Given;
use super::terminal::tell;
use super::{detach, pool_path, restore_notes};

/// Time that a spare VM which was not fit, or is to end, has for its end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(2);

/// The pool of a restore that a spare VM fits. `None` when none does, or without a pool: the
/// restore says so.
pub fn pool_of(arguments: &RestoreArguments) -> Option<PathBuf> {
    let found = || {
        pool_path::found_if_any(&arguments.start.pool)
            .ok()
            .flatten()
    };
    fits(arguments).then(found).flatten()
}

/// True if nothing is asked for that a VM which is built already cannot have.
pub fn fits(arguments: &RestoreArguments) -> bool {
    let RestoreArguments { start, .. } = arguments;
    start.detach
        && matches!(start.console, None | Some(ConsoleChoice::None))
        && start.on_reboot == RebootChoice::Restart
        && !start.no_sandbox
        && start.uid.is_none()
        && arguments.disks.is_empty()
        && arguments.network.net.is_none()
        && arguments.network.publish.is_empty()
        && arguments.kernel.is_none()
        && !(arguments.once || arguments.prefault || arguments.stale_disks)
}

/// Takes a spare VM for `nvvmm restore`, if one is there. Another one is not [made](refill) yet.
///
/// # Errors
/// The name is taken already.
pub fn take(
    arguments: &RestoreArguments,
    (pool, name): (&Path, Option<&str>),
    given: &Given,
) -> Result<Option<VmStatus>, VmError> {
    let dir = RuntimeDir::of_user()?;
    let names = [name.map(str::to_owned)];
    while let Some(paths) = rename(&dir, arguments, (pool, &names), given)?.first() {
        if let Some(status) = go_on(&dir, arguments, pool, paths)? {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

/// Gives spare VMs these names, as many as there are. They stand by still.
///
/// # Errors
/// A name is taken already.
pub fn rename(
    dir: &RuntimeDir,
    arguments: &RestoreArguments,
    (pool, names): (&Path, &[Option<String>]),
    given: &Given,
) -> Result<Vec<VmRuntimePaths>, VmError> {
    let snapshot = &arguments.snapshot;
    if !dir.may_have_spare(pool, snapshot) {
        return Ok(Vec::new());
    }
    let choice = |name: &Option<String>| name.clone().map_or(NameChoice::MadeUp, NameChoice::Given);
    let choices: Vec<NameChoice> = names.iter().map(choice).collect();
    let start = given.begin_from(Some(snapshot.clone()), pool);
    dir.take_spares((pool, snapshot), &choices, &start)
}

/// Has a spare VM whose files have their new name go on. `None` when it did not fit: then it is
/// gone.
///
/// # Errors
/// The list of VMs cannot be read.
pub fn go_on(
    dir: &RuntimeDir,
    arguments: &RestoreArguments,
    pool: &Path,
    paths: &VmRuntimePaths,
) -> Result<Option<VmStatus>, VmError> {
    let request = TakeRequest {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        pool: pool.to_owned(),
        snapshot: arguments.snapshot.clone(),
        name: paths.name.clone(),
        console: Some(paths.console.clone()),
        agent_orders: arguments.agent_orders(),
        paused: arguments.start.paused,
    };
    let taken = ControlClient::connect(&paths.control).and_then(|mut vm| {
        let status = vm.take_over(request)?;
        restore_notes::wait_for_agent(&mut vm, status)
    });
    match taken {
        Ok(status) => Ok(Some(status)),
        Err(error) => {
            tracing::info!("a spare VM was not taken: {error}");
            wait_until_gone(dir, paths)?;
            Ok(None)
        }
    }
}

fn wait_until_gone(dir: &RuntimeDir, paths: &VmRuntimePaths) -> Result<(), VmError> {
    let until = Instant::now() + END_TIMEOUT;
    while dir.is_living(&paths.name)? && Instant::now() < until {
        thread::sleep(END_POLL);
    }
    Ok(())
}

/// Has spare VMs made in the background, if they are wanted. Nobody waits for that.
pub fn refill(pool: &Path, snapshot: &str) {
    let ordered = RuntimeDir::of_user().and_then(|dir| dir.spare_orders());
    let is_it = |order: &SpareOrder| order.pool == pool && order.snapshot == snapshot;
    if !ordered.is_ok_and(|orders| orders.iter().any(is_it)) {
        return;
    }
    let spawned = Command::new("/proc/self/exe")
        .arg0("nvvmm")
        .args(["spare", snapshot, "--refill", "--pool"])
        .arg(pool)
        .env_clear()
        .envs(detach::kept_variables())
        .envs(detach::runtime_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = spawned {
        tracing::warn!(%error, "no spare VM is built in place of the one that was taken");
    }
}

/// Living spare VMs of an order.
///
/// # Errors
/// The directory cannot be read.
pub fn of_order(dir: &RuntimeDir, order: &SpareOrder) -> Result<Vec<Entry>, VmError> {
    let mut spares = dir.spares()?;
    spares.retain(|entry| order.has(&entry.paths.name));
    Ok(spares)
}

/// Ends spare VMs, and waits until they are gone. One that does not answer is killed.
///
/// # Errors
/// The directory cannot be read.
pub fn end(dir: &RuntimeDir, spares: &[Entry]) -> Result<(), VmError> {
    for entry in spares {
        let asked = ControlClient::connect(&entry.paths.control).and_then(|mut vm| vm.stop());
        if let Err(error) = asked {
            tracing::info!("a spare VM is killed: {error}");
            // It may be gone by now.
            let _ = entry.process().and_then(|process| process.kill());
        }
    }
    let until = Instant::now() + END_TIMEOUT;
    for entry in spares {
        let is_it = |other: &Entry| other.paths.name == entry.paths.name;
        while dir.spares()?.iter().any(is_it) {
            if Instant::now() >= until {
                let _ = entry.process().and_then(|process| process.kill());
            }
            thread::sleep(END_POLL);
        }
    }
    Ok(())
}

/// Ends the spare VMs of snapshots that are gone, or of all, and wants no more. Tells of it.
///
/// # Errors
/// The directory cannot be read.
pub fn end_those_of(
    dir: &RuntimeDir,
    is_meant: impl Fn(&SpareOrder) -> bool,
) -> Result<(), VmError> {
    for order in dir.spare_orders()?.into_iter().filter(is_meant) {
        dir.order_spares(&SpareOrder {
            count: 0,
            ..order.clone()
        })?;
        let spares = of_order(dir, &order)?;
        end(dir, &spares)?;
        tell(&format!(
            "nvvmm: the spare VMs of {} are ended, too ({})\n",
            order.snapshot,
            spares.len()
        ));
    }
    Ok(())
}

/// An order by its pool and snapshot.
pub fn order_of(pool: PathBuf, snapshot: &str, count: u32) -> SpareOrder {
    SpareOrder {
        pool,
        snapshot: snapshot.to_owned(),
        count,
    }
}

#[cfg(test)]
#[path = "spares_test.rs"]
mod spares_test;

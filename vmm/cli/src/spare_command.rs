//! `nvvmm spare`: VMs that stand by.
//!
//! The command starts itself once more for each ([`super::detach`]); that process is a VM process,
//! which opens everything, confines itself, builds the machine, and waits. `restore` starts the
//! command with `--refill`, in the background, when it has taken one.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::unistd::setsid;
use nvvmm::control::RuntimeDir;
use nvvmm::control::spares::SpareOrder;
use nvvmm::vm::{OnReboot, RestoreOptions, VmSource, check_host};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{SnapshotKind, counted};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::SpareArguments;
use super::launch::{Ending, Given, exit_text};
use super::output::{self, Column};
use super::vm_process::{Begin, ConsoleMode, LIFE, VmProcess, set_process_name};
use super::{detach, error, json, pool_path, spares};

/// Name of a spare VM's process in `ps` and `top`.
const PROCESS_NAME: &str = "(spare)";
/// Spare VMs that are built at a time.
const AT_ONCE: u32 = 4;

/// `nvvmm spare`.
pub fn run(arguments: SpareArguments, given: &Given) -> Result<ExitCode, VmError> {
    let Some(snapshot) = arguments.snapshot.as_deref() else {
        list(&arguments)?;
        return Ok(ExitCode::SUCCESS);
    };
    if detach::is_child() {
        return be_spare(&arguments, snapshot, given);
    }
    let dir = RuntimeDir::of_user()?;
    if arguments.refill {
        // It outlives the terminal of the command that started it.
        let _ = setsid();
        let pool = pool_path::found(&arguments.pool)?;
        refill(&dir, &spares::order_of(pool, snapshot, 0))?;
        return Ok(ExitCode::SUCCESS);
    }
    let count = arguments.count.unwrap_or_default();
    let order = match count {
        // Also for a pool or a snapshot that is gone.
        0 => end_all(&dir, &arguments, snapshot)?,
        _ => have(&dir, &arguments, snapshot, count)?,
    };
    let line = Line::of(&dir, order)?;
    if arguments.json.json {
        output::print_json(&[line.json()])?;
    } else {
        output::print(&line.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends all spare VMs of a snapshot.
fn end_all(
    dir: &RuntimeDir,
    arguments: &SpareArguments,
    snapshot: &str,
) -> Result<SpareOrder, VmError> {
    let pool = match pool_path::found_if_any(&arguments.pool) {
        Ok(Some(pool)) => pool,
        Ok(None) => return Err(pool_path::found(&arguments.pool).map_or_else(|e| e, |_| gone())),
        Err(error) => match arguments.pool.path() {
            Some(path) => pool_path::absolute(&path)?,
            None => return Err(error),
        },
    };
    let order = spares::order_of(pool, snapshot, 0);
    dir.order_spares(&order)?;
    spares::end(dir, &spares::of_order(dir, &order)?)?;
    Ok(order)
}

fn gone() -> VmError {
    VmError::new(ErrorKind::NotFound, "there is no pool")
}

/// Has so many spare VMs stand by: ends some, or builds some.
fn have(
    dir: &RuntimeDir,
    arguments: &SpareArguments,
    snapshot: &str,
    count: u32,
) -> Result<SpareOrder, VmError> {
    let pool = pool_path::found(&arguments.pool)?;
    check_host()?;
    let entry = pool_path::open(&pool)?.find(snapshot)?;
    if entry.kind != SnapshotKind::Vm {
        return Err(VmError::new(
            ErrorKind::Refused,
            format!("'{snapshot}' is a {}, not a snapshot of a VM", entry.kind),
        ));
    }
    if entry.has_disks_only() {
        return Err(VmError::new(
            ErrorKind::Refused,
            format!("snapshot '{snapshot}' has disks only, and no VM"),
        ));
    }
    let order = spares::order_of(pool, snapshot, count);
    let mut there = spares::of_order(dir, &order)?;
    dir.order_spares(&order)?;
    let too_many = there.split_off(there.len().min(count as usize));
    spares::end(dir, &too_many)?;
    let missing = count - there.len() as u32;
    build(missing, &|| false).map_err(|cause| {
        // Restores would go on to try it.
        let there = spares::of_order(dir, &order).map_or(0, |there| there.len() as u32);
        let order = SpareOrder {
            count: there,
            ..order.clone()
        };
        let _ = dir.order_spares(&order);
        VmError {
            message: format!(
                "{there} of {} stand by, as the next one cannot: {}",
                counted(count, "spare VM"),
                cause.message
            ),
            ..cause
        }
    })?;
    // Whoever took one meanwhile has one built, too.
    let mut there = spares::of_order(dir, &order)?;
    let too_many = there.split_off(there.len().min(count as usize));
    spares::end(dir, &too_many)?;
    Ok(order)
}

/// Builds spare VMs, a few at a time, until one fails or `is_enough`.
fn build(count: u32, is_enough: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
    let left = AtomicU32::new(count);
    let failed: Mutex<Option<VmError>> = Mutex::new(None);
    let has_failed = || {
        { failed.lock() }
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    };
    let take_one = || {
        let less = |left: u32| left.checked_sub(1);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    };
    thread::scope(|scope| {
        for _ in 0..count.min(AT_ONCE) {
            scope.spawn(|| {
                while !has_failed() && !is_enough() && take_one() {
                    if let Err(cause) = detach::start_one(None) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(cause);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}

/// Builds as many spare VMs as are missing. One process does that for each snapshot; another one
/// that comes meanwhile leaves it the work, as it looks once more after it has let go of the lock.
fn refill(dir: &RuntimeDir, of: &SpareOrder) -> Result<(), VmError> {
    let counts = || {
        let orders = dir.spare_orders().unwrap_or_default();
        let is_it = |order: &&SpareOrder| order.pool == of.pool && order.snapshot == of.snapshot;
        let wanted = orders
            .iter()
            .find(is_it)
            .map_or(0, |order| order.count as usize);
        spares::of_order(dir, of).map(|there| (wanted, there))
    };
    loop {
        let (wanted, there) = counts()?;
        if there.len() == wanted {
            return Ok(());
        }
        let Some(lock) = dir.lock_refill(of)? else {
            return Ok(());
        };
        let (wanted, mut there) = counts()?;
        if there.len() >= wanted {
            // Fewer are wanted by now, or none.
            spares::end(dir, &there.split_off(wanted))?;
            if wanted == 0 {
                // The order is gone, and the file of the lock goes, too.
                dir.order_spares(of)?;
            }
            drop(lock);
            continue;
        }
        // One at a time: the guest that was started has the other CPU.
        build(1, &|| false)?;
    }
}

/// Is a spare VM, until somebody takes it, and that VM then.
fn be_spare(
    arguments: &SpareArguments,
    snapshot: &str,
    given: &Given,
) -> Result<ExitCode, VmError> {
    let mut reported = false;
    let ended = stand_by(arguments, snapshot, given, &mut reported);
    match ended {
        Err(error) if !reported => {
            detach::report_failed(&error);
            Ok(error::exit_code(error.kind).into())
        }
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

fn stand_by(
    arguments: &SpareArguments,
    snapshot: &str,
    given: &Given,
    reported: &mut bool,
) -> Result<(), VmError> {
    let pool = pool_path::found(&arguments.pool)?;
    let claim = RuntimeDir::of_user()?.claim_spare(&pool, snapshot)?;
    set_process_name(PROCESS_NAME);
    let kept = claim.begin_life(&given.begin_from(Some(snapshot.to_owned()), &pool))?;
    detach::become_background(claim.paths())?;
    if let Err(e) = std::env::set_current_dir("/") {
        tracing::warn!("cannot leave the working directory: {e}");
    }
    let source = VmSource::Restore(RestoreOptions::from(snapshot));
    let process = VmProcess::open((claim, kept), &pool, source, None, true)?;
    let warnings = process.warnings();
    let ending = Arc::new(Ending::default());
    ending.ask_on_signals(&[SIGINT, SIGTERM])?;
    let has_reported = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let begin = Begin {
        paused: false,
        on_reboot: OnReboot::Restart,
        on_standby: Some(Box::new({
            let (ending, has_reported) = (Arc::clone(&ending), Arc::clone(&has_reported));
            move |status| {
                tracing::info!("a spare VM of {} stands by", status.pid);
                has_reported.store(true, Ordering::Relaxed);
                if !detach::report_ready(status, warnings) {
                    ending.ask(SIGTERM);
                }
            }
        })),
    };
    let on_control = |control| ending.can_ask(control);
    let exit = process.run(ConsoleMode::SocketOnly, begin, on_control, |status| {
        tracing::info!(target: LIFE, "taken as {}", status.name);
    });
    *reported = has_reported.load(Ordering::Relaxed);
    tracing::info!(target: LIFE, "{}", exit_text("the VM", &exit?));
    Ok(())
}

/// `nvvmm spare` without a snapshot.
fn list(arguments: &SpareArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let orders = dir.spare_orders()?.into_iter();
    let mut lines = orders
        .map(|order| Line::of(&dir, order))
        .collect::<Result<Vec<_>, _>>()?;
    lines.sort_by(|one, other| one.order.snapshot.cmp(&other.order.snapshot));
    if arguments.json.json {
        return output::print_json(&lines.iter().map(Line::json).collect::<Vec<_>>());
    }
    if lines.is_empty() {
        return output::print("no spare VMs are wanted\n");
    }
    let heads = [
        Column::Text("SNAPSHOT"),
        Column::Number("WANTED"),
        Column::Number("STANDING BY"),
        Column::Text("POOL"),
    ];
    let rows: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    output::print(&output::table(&heads, &rows))
}

/// Spare VMs of one snapshot.
struct Line {
    order: SpareOrder,
    there: u32,
}

impl Line {
    fn of(dir: &RuntimeDir, order: SpareOrder) -> Result<Self, VmError> {
        let there = spares::of_order(dir, &order)?.len() as u32;
        Ok(Self { order, there })
    }

    fn text(&self) -> String {
        match self.order.count {
            0 => format!("no spare VMs of {}\n", self.order.snapshot),
            _ => format!(
                "{} of {} by\n",
                counted(self.there, "spare VM"),
                match self.there {
                    1 => format!("{} stands", self.order.snapshot),
                    _ => format!("{} stand", self.order.snapshot),
                }
            ),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.order.snapshot.clone(),
            self.order.count.to_string(),
            self.there.to_string(),
            self.order.pool.display().to_string(),
        ]
    }

    fn json(&self) -> json::vm::Spares {
        json::vm::Spares {
            snapshot: self.order.snapshot.clone(),
            pool: self.order.pool.display().to_string(),
            wanted_count: self.order.count,
            standing_by_count: self.there,
        }
    }
}

#[cfg(test)]
#[path = "spare_command_test.rs"]
mod spare_command_test;

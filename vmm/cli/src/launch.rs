//! `nvvmm run` and `nvvmm restore`: this process becomes a VM process, or starts one: with
//! `--detach`, and on a terminal, where it is the VM's console.

use std::fs::File;
use std::io::{IsTerminal, Write, stdin};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use nvvmm::control::life::LifeStart;
use nvvmm::control::past::KeptLife;
use nvvmm::control::{Claim, NameChoice, RuntimeDir, VmControl, VmOrigin, VmState, VmStatus};
use nvvmm::spec::VmSpec;
use nvvmm::spec::files::BootFile;
use nvvmm::threads::ThreadKind;
use nvvmm::vm::{BootChoice, RestoreOptions, VmExit, VmSource};
use nvvmm::{ErrorKind, VmError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::{ConsoleChoice, RestoreArguments, RunArguments, StartArguments};
use super::disk_choice::DiskChooser;
use super::error::{SIGNALLED, exit_code};
use super::given_path::absolute;
use super::json::vm::Vm;
use super::lazy_restore::Started;
use super::privileges::{self, Account, as_user};
use super::start_checks::{PoolNeed, pool_for};
use super::terminal::tell;
use super::vm_process::{Begin, ConsoleMode, LIFE, VmProcess, set_process_name};
use super::{
    attended, copies, detach, error, lazy_restore, net_values, output, process_commands,
    restore_notes, sandbox, spares,
};

/// `nvvmm run`.
pub fn run(arguments: RunArguments, given: &Given) -> Result<ExitCode, VmError> {
    let RunArguments {
        kernel,
        initramfs,
        cmdline,
        memory,
        cpus,
        disks,
        network,
        start,
    } = arguments;
    launch(start, PoolNeed::Made, given, |chooser| {
        let BootChoice {
            kernel,
            initramfs,
            cmdline,
        } = boot_choice(&kernel, initramfs.as_deref(), cmdline)?;
        let spec = VmSpec::builder(kernel)
            .initramfs(initramfs)
            .cmdline(cmdline)
            .vcpus(cpus)
            .memory_bytes(memory)
            .disks(chooser.choose(disks)?)
            .agent_devices()
            .net(net_values::new_card(network)?)
            .balloon()
            .build();
        Ok(VmSource::Boot(spec))
    })
}

/// `nvvmm restore`.
pub fn restore(arguments: RestoreArguments, given: &Given) -> Result<ExitCode, VmError> {
    if lazy_restore::is_url(&arguments.snapshot) {
        return restore_arriving(arguments, given);
    }
    lazy_restore::refuse_options_of_stores(&arguments)?;
    if let Some(vm) = arguments.into {
        return process_commands::restore(
            &vm,
            arguments.snapshot,
            (
                &process_commands::RestartChoice {
                    attach: arguments.attach,
                    window: arguments.window,
                    allow_root: arguments.allow_root,
                    json: arguments.start.json,
                },
                arguments.start.pool.given(),
            ),
        );
    }
    if !detach::is_child() {
        if let Some(count) = arguments.count {
            return copies::run(&arguments, count, given);
        }
        if let Some(pool) = spares::pool_of(&arguments) {
            let name = arguments.start.name.as_deref();
            let snapshot = arguments.snapshot.clone();
            let code = match spares::take(&arguments, (&pool, name), given)? {
                Some(status) => told(&arguments.start, &status)?,
                None => restore_anew(arguments, given)?,
            };
            spares::refill(&pool, &snapshot);
            return Ok(code);
        }
    }
    restore_anew(arguments, given)
}

/// Restores a snapshot of a store, which arrives.
fn restore_arriving(mut arguments: RestoreArguments, given: &Given) -> Result<ExitCode, VmError> {
    let vm = lazy_restore::check(&arguments)?;
    // It fetches as long as the VM needs it. It ends with this command before it has a VM.
    let _fetcher = match detach::is_child() {
        true => None,
        false => match lazy_restore::start(&arguments, &vm)? {
            Started::Fetches(fetcher) => Some(fetcher),
            Started::Failed(code) => return Ok(code),
        },
    };
    lazy_restore::name_here(&mut arguments)?;
    restore_anew(arguments, given)
}

fn restore_anew(arguments: RestoreArguments, given: &Given) -> Result<ExitCode, VmError> {
    let orders = arguments.agent_orders();
    let RestoreArguments {
        snapshot,
        count: _,
        into: _,
        attach: _,
        window: _,
        once,
        prefault,
        allow_root: _,
        clock: _,
        keep_connections: _,
        disks,
        network,
        stale_disks,
        ephemeral,
        kernel,
        initramfs,
        cmdline,
        pulled_as: _,
        prefetch: _,
        record: _,
        key: _,
        is_arriving: arriving,
        start,
    } = arguments;
    launch(start, PoolNeed::Found, given, |chooser| {
        let disks = if disks.is_empty() {
            None
        } else {
            Some(chooser.choose(disks)?)
        };
        let published = network.publish.clone();
        let net = match network.net {
            // The card stays where it was, with these ports.
            None => None,
            Some(_) => net_values::chosen(network)?.map(Box::new),
        };
        let boot = kernel.map(|kernel| boot_choice(&kernel, initramfs.as_deref(), cmdline));
        Ok(VmSource::Restore(RestoreOptions {
            snapshot,
            disks,
            net,
            published,
            boot: boot.transpose()?,
            ephemeral,
            once,
            prefault,
            arriving,
            time_of_day: orders.time_of_day,
            keep_connections: orders.keep_connections,
            stale_disks,
        }))
    })
}

/// The command that starts a VM, as its record keeps it.
#[derive(Clone, Debug)]
pub struct Given {
    /// Arguments behind the program's name; `None` when one of them is no text.
    pub arguments: Option<Vec<String>>,
    /// Working directory of the command.
    pub directory: Option<String>,
}

impl Given {
    /// The command of this process.
    pub fn to_this_process() -> Self {
        let arguments = std::env::args_os().skip(1);
        let directory = std::env::current_dir().ok();
        Self {
            arguments: arguments.map(|text| text.into_string().ok()).collect(),
            directory: directory.and_then(|path| path.into_os_string().into_string().ok()),
        }
    }

    /// The beginning of the record of the VM, whose name is not known yet.
    fn begin(&self, source: &VmSource, pool: &Path) -> LifeStart {
        self.begin_from(
            match source {
                VmSource::Boot(_) => None,
                VmSource::Restore(restore) => Some(restore.snapshot.clone()),
            },
            pool,
        )
    }

    /// The same for a VM of this snapshot.
    pub(super) fn begin_from(&self, snapshot: Option<String>, pool: &Path) -> LifeStart {
        LifeStart {
            directory: self.directory.clone(),
            pool: pool.to_str().map(str::to_owned),
            snapshot,
            ..LifeStart::now("", self.arguments.clone())
        }
    }
}

fn launch(
    start: StartArguments,
    need: PoolNeed,
    given: &Given,
    source: impl FnOnce(&DiskChooser<'_>) -> Result<VmSource, VmError>,
) -> Result<ExitCode, VmError> {
    let console = console_choice(&start)?;
    let account = privileges::wanted(&start)?;
    if detach::is_child() {
        let mut reported = false;
        return match be_background_vm(&start, account, (need, given), source, &mut reported) {
            // The waiting command prints it.
            Err(error) if !reported => {
                detach::report_failed(&error);
                Ok(exit_code(error.kind).into())
            }
            ended => {
                detach::report_end(&ended);
                ended.map(|_| ExitCode::SUCCESS)
            }
        };
    }
    if start.detach {
        return told(&start, &detach::start_and_wait()?);
    } else if console == ConsoleChoice::Stdio && stdin().is_terminal() {
        return attended::run(|status| {
            foreground_text(status, true) + &restore_notes::text_of(status)
        });
    } else {
        be_vm(&start, account, (need, given), console, source)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints that a VM in the background runs.
fn told(start: &StartArguments, status: &VmStatus) -> Result<ExitCode, VmError> {
    if start.json {
        output::print_json(&Vm::of(status))?
    } else if start.quiet {
        output::print_names(&[&status.name])?
    } else {
        output::print(&started_text(status))?
    }
    restore_notes::tell_of(status);
    Ok(ExitCode::SUCCESS)
}

/// The console that the arguments ask for, when they agree with each other.
fn console_choice(start: &StartArguments) -> Result<ConsoleChoice, VmError> {
    let usage = |message: &str, remedy: &str| {
        Err(VmError::new(ErrorKind::Usage, message).with_remedy(remedy))
    };
    match (start.console, start.detach) {
        (Some(ConsoleChoice::Stdio), true) => usage(
            "--console stdio and --detach exclude each other: a VM in the background has no \
             terminal",
            "connect with 'nvvmm console VM' when it runs",
        ),
        (None, true) | (Some(ConsoleChoice::None), _) => Ok(ConsoleChoice::None),
        // The VM process of a command on a terminal has no terminal itself.
        (None, false) if start.tty && !detach::is_child() && !stdin().is_terminal() => {
            usage("--tty needs a terminal on stdin", "leave --tty out")
        }
        (None | Some(ConsoleChoice::Stdio), false) if start.json => usage(
            "--json and the guest's console cannot share stdout",
            "add --detach or --console none",
        ),
        (None | Some(ConsoleChoice::Stdio), false) => Ok(ConsoleChoice::Stdio),
    }
}

fn be_background_vm(
    start: &StartArguments,
    account: Option<Account>,
    (need, given): (PoolNeed, &Given),
    source: impl FnOnce(&DiskChooser<'_>) -> Result<VmSource, VmError>,
    reported: &mut bool,
) -> Result<String, VmError> {
    let source = source(&DiskChooser {
        pool: &start.pool,
        account: account.as_ref(),
    })?;
    let pool = pool_for(start, account.as_ref(), need, &source)?;
    let named = claim(start, account.as_ref(), &pool, &given.begin(&source, &pool))?;
    let name = named.0.paths().name.clone();
    as_user(account.as_ref(), || {
        detach::become_background(named.0.paths())
    })?;
    // So that a file system can be unmounted from under the shell that started the VM.
    if let Err(e) = std::env::set_current_dir("/") {
        tracing::warn!("cannot leave the working directory: {e}");
    }
    let confined = !start.no_sandbox;
    let account = account.as_ref();
    let process = VmProcess::open(named, &pool, source, account, confined)?;
    let warnings = process.warnings();
    let ending = Arc::new(Ending::default());
    ending.ask_on_signals(&[SIGINT, SIGTERM])?;
    let on_control = |control| ending.can_ask(control);
    let exit = process.run(
        ConsoleMode::SocketOnly,
        begin_of(start),
        on_control,
        |status| {
            tracing::info!("{}", up_text(status));
            *reported = true;
            if !detach::report_ready(status, warnings) {
                // Nobody was told of it, and nobody can be.
                ending.ask(SIGTERM);
            }
        },
    )?;
    let how = exit_text(&name, &exit);
    tracing::info!(target: LIFE, "{how}");
    match exit {
        VmExit::TripleFault { what } if detach::is_attended() => Err(VmError::failed(what)),
        _ => Ok(how),
    }
}

fn be_vm(
    start: &StartArguments,
    account: Option<Account>,
    (need, given): (PoolNeed, &Given),
    console: ConsoleChoice,
    source: impl FnOnce(&DiskChooser<'_>) -> Result<VmSource, VmError>,
) -> Result<(), VmError> {
    let source = source(&DiskChooser {
        pool: &start.pool,
        account: account.as_ref(),
    })?;
    let pool = pool_for(start, account.as_ref(), need, &source)?;
    let named = claim(start, account.as_ref(), &pool, &given.begin(&source, &pool))?;
    let name = named.0.paths().name.clone();
    let confined = !start.no_sandbox;
    let process = VmProcess::open(named, &pool, source, account.as_ref(), confined)?;
    process.warnings().iter().for_each(error::warn);
    let ending = Arc::new(Ending::default());
    ending.ask_on_signals(&[SIGHUP, SIGINT, SIGTERM])?;
    let mode = match console {
        ConsoleChoice::None => ConsoleMode::SocketOnly,
        ConsoleChoice::Stdio => ConsoleMode::Stdio {
            input: read_input()?,
        },
    };
    let mut printed = Ok(());
    let on_control = |control| ending.can_ask(control);
    let exit = process.run(mode, begin_of(start), on_control, |status| {
        if start.json {
            printed = output::print_json(&Vm::of(status));
        } else {
            tell(&foreground_text(status, false));
        }
        restore_notes::tell_of(status);
    });
    let exit = exit?;
    if let VmExit::TripleFault { what } = exit {
        return Err(VmError::failed(what));
    }
    tell(&format!("nvvmm: {}\n", exit_text(&name, &exit)));
    printed
}

/// Claims the VM's name in the runtime directory of the user whose VM this is, and begins the
/// record of its life.
fn claim(
    start: &StartArguments,
    account: Option<&Account>,
    pool: &Path,
    begin: &LifeStart,
) -> Result<(Claim, KeptLife), VmError> {
    let runtime = || match account {
        None => RuntimeDir::of_user(),
        Some(account) => RuntimeDir::at(&account.runtime_dir()),
    };
    account.map_or(Ok(()), Account::prepare_runtime_dir)?;
    as_user(account, || {
        let claim = runtime()?.claim(&name_choice(start), pool)?;
        let name = &claim.paths().name;
        set_process_name(name);
        let kept = claim.begin_life(&LifeStart {
            vm: name.clone(),
            background: start.detach || detach::is_child(),
            ..begin.clone()
        })?;
        Ok((claim, kept))
    })
}

fn begin_of(start: &StartArguments) -> Begin {
    Begin {
        paused: start.paused,
        on_reboot: start.on_reboot.into(),
        on_standby: None,
    }
}

fn name_choice(start: &StartArguments) -> NameChoice {
    let name = detach::copy_name().or_else(|| start.name.clone());
    name.map_or(NameChoice::MadeUp, NameChoice::Given)
}

/// The files to boot from, with absolute paths.
fn boot_choice(
    kernel: &Path,
    initramfs: Option<&Path>,
    cmdline: String,
) -> Result<BootChoice, VmError> {
    let initramfs = initramfs.map(|path| to_boot(BootFile::INITRAMFS, path));
    Ok(BootChoice {
        kernel: to_boot(BootFile::KERNEL, kernel)?,
        initramfs: initramfs.transpose()?,
        cmdline,
    })
}

/// `path` made absolute, when a guest can be booted from it. The VM opens it by itself.
fn to_boot(what: &'static str, path: &Path) -> Result<PathBuf, VmError> {
    BootFile::open(what, path)?;
    absolute(what, path)
}

/// Ends this VM process when the user asks for it by a signal.
#[derive(Default)]
pub(super) struct Ending {
    control: OnceLock<Arc<dyn VmControl>>,
    asked: AtomicBool,
}

impl Ending {
    /// The VM can be asked to stop from now on.
    pub(super) fn can_ask(&self, control: Arc<dyn VmControl>) {
        let _ = self.control.set(control);
    }

    /// The first time, the way that `nvvmm stop` goes. A VM that is not up yet, or that is asked a
    /// second time, is ended at once: the pool gives back what a dead process held. Never
    /// waits, so that the second time is heard.
    pub(super) fn ask(self: &Arc<Self>, signal: i32) {
        if self.asked.swap(true, Ordering::SeqCst) {
            end_now(signal);
        }
        let ending = Arc::clone(self);
        let asking = thread::Builder::new().name("ending".into()).spawn(move || {
            match ending.control.get().map(|vm| vm.stop()) {
                Some(Ok(())) => {}
                None | Some(Err(_)) => end_now(signal),
            }
        });
        if asking.is_err() {
            end_now(signal);
        }
    }

    pub(super) fn ask_on_signals(self: &Arc<Self>, signals: &[i32]) -> Result<(), VmError> {
        let failed = |e: std::io::Error| VmError::io("take signals", &e);
        let mut signals = Signals::new(signals).map_err(failed)?;
        let ending = Arc::clone(self);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                sandbox::begin_thread(ThreadKind::Control);
                signals.forever().for_each(|signal| ending.ask(signal));
            })
            .map_err(failed)?;
        Ok(())
    }
}

/// Ends the VM process with the code that a shell gives to a process that a signal ended.
fn end_now(signal: i32) -> ! {
    tell("nvvmm: ended before the VM could stop cleanly\n");
    std::process::exit(SIGNALLED + signal);
}

/// Starts to read stdin, which is no terminal; gives the end of a pipe where the console reads it.
/// Every byte reaches the guest, as slowly as it reads.
fn read_input() -> Result<OwnedFd, VmError> {
    let failed = |e: nix::Error| VmError::io("make the console's pipe", &e.into());
    let (input, typed) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            sandbox::begin_thread(ThreadKind::Control);
            carry_input(File::from(typed));
        })
        .map_err(|e| VmError::io("read stdin", &e))?;
    Ok(input)
}

fn carry_input(mut typed: File) {
    let mut bytes = [0; 4096];
    loop {
        let count = match nix::unistd::read(stdin(), &mut bytes) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if typed.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn foreground_text(status: &VmStatus, raw: bool) -> String {
    let key = if raw {
        "; Ctrl-] leaves its console"
    } else {
        ""
    };
    format!("nvvmm: {}{key}\n", up_text(status))
}

fn started_text(status: &VmStatus) -> String {
    if let Some(report) = &status.restore {
        return output::report(&up_text(status), &output::phases(&report.phases));
    }
    let name = &status.name;
    format!(
        "{}\n  console: nvvmm console {name}\n  end:     nvvmm stop {name}\n",
        up_text(status)
    )
}

/// `vm-1 runs (pid 4711), restored from base in 1.24 ms`.
fn up_text(status: &VmStatus) -> String {
    let VmStatus { name, pid, .. } = status;
    let state = if status.state == VmState::Paused {
        "is paused"
    } else {
        "runs"
    };
    let from = match (&status.origin, &status.restore) {
        (VmOrigin::Boot { .. }, _) => String::new(),
        (VmOrigin::Snapshot { name }, None) => format!(", restored from {name}"),
        (VmOrigin::Snapshot { name }, Some(report)) => {
            format!(
                ", restored from {name} in {}",
                output::time_us(report.first_instruction_us)
            )
        }
    };
    format!("{name} {state} (pid {pid}){from}")
}

pub(super) fn exit_text(name: &str, exit: &VmExit) -> String {
    match exit {
        VmExit::PoweredOff => format!("{name} switched itself off"),
        VmExit::Rebooted => format!("the guest of {name} rebooted, and its VM ended"),
        VmExit::TripleFault { what } => format!("{name}: {what}"),
        VmExit::Stopped => format!("{name} was stopped"),
        VmExit::Snapshotted { snapshot } => format!("{name} ended with the snapshot {snapshot}"),
    }
}

#[cfg(test)]
#[path = "launch_test.rs"]
mod launch_test;

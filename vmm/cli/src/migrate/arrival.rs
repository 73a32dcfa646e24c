//! `nvvmm arrive`: the end of a migration that gets the VM.
//!
//! Other processes do the work: a [`receiver`](super::receiver), which is confined, and `nvvmm
//! restore`. This one carries bytes to them, and decides with [`Decision`] who has the VM.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::control::registry::check_vm_name;
use nvvmm::control::{RuntimeDir, VmOrigin};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{FaultPoint, fault_point};

use super::decision::{Decided, Decision, sweep};
use super::message::{
    DATA_BYTES_MAX, Frame, FromSource, FromTarget, PROTOCOL_VERSION, message, out_of_turn, say,
};
use super::names::Names;
use super::receiver;
use crate::args::ArriveArguments;
use crate::interruption::{Interruptible, ends_on_signal};
use crate::pool_path;
use crate::vm_commands::{connect, kill_one};

/// Time for what comes next, while the VM runs at the source.
const ROUND_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same while both VMs stand still.
const GO_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of signs of life.
const WORKING_EVERY: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);
/// Most bytes of a command's messages that are passed on.
const MESSAGES_BYTES_MAX: u64 = 8 << 10;

/// `nvvmm arrive`.
pub fn arrive(arguments: &ArriveArguments) -> Result<ExitCode, VmError> {
    if arguments.receiver {
        return receiver::run(arguments);
    }
    let interrupted = ends_on_signal()?;
    let failed = |e: io::Error| VmError::io("use standard input and output", &e);
    let input = stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let output = stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut input = Interruptible::input(File::from(input), &interrupted);
    input.set_limit(ROUND_TIMEOUT);
    let mut ends = Ends {
        input: BufReader::new(input),
        output: BufWriter::new(File::from(output)),
    };
    match serve(arguments, &mut ends) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let code = error.kind.exit_code();
            // The source prints it.
            ends.say(&FromTarget::Failed { error })?;
            Ok(code.into())
        }
    }
}

/// Both directions of the connection.
struct Ends {
    input: BufReader<Interruptible>,
    output: BufWriter<File>,
}

impl Ends {
    fn say(&mut self, message: &FromTarget) -> Result<(), VmError> {
        say(&mut self.output, message).map_err(|e| VmError::io("answer the source", &e))
    }

    fn frame(&mut self) -> Result<Frame, VmError> {
        let broken = |e| VmError::io("hear from the source", &e);
        Frame::read(&mut self.input)
            .map_err(broken)?
            .ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
    }

    fn message(&mut self) -> Result<FromSource, VmError> {
        let frame = self.frame()?;
        message(&frame).map_err(|e| VmError::io("hear from the source", &e))
    }
}

fn serve(arguments: &ArriveArguments, ends: &mut Ends) -> Result<(), VmError> {
    let hello = ends.message()?;
    let FromSource::Hello {
        protocol,
        program,
        id,
        vm,
    } = &hello
    else {
        return Err(out_of_turn());
    };
    if *protocol != PROTOCOL_VERSION {
        let own = env!("CARGO_PKG_VERSION");
        let why = format!("this host has nvvmm {own}, which does not know that of {program}");
        return Err(VmError::new(ErrorKind::Refused, why)
            .with_remedy("have the same version of nvvmm on both hosts"));
    }
    let mut arrival = Arrival {
        dir: RuntimeDir::of_user()?,
        names: Names::new(vm, id)?,
        hello: &hello,
        arguments,
        receiver: None,
    };
    sweep(&arrival.dir);
    let done = arrival.carry_out(ends);
    // It may be at work on a snapshot that is to go.
    arrival.receiver = None;
    match done {
        Ok(()) => Ok(()),
        Err(error) => {
            // Unless it was decided that the VM is here.
            arrival.give_up()?;
            Err(error)
        }
    }
}

/// A VM that is about to arrive.
struct Arrival<'a> {
    dir: RuntimeDir,
    names: Names,
    hello: &'a FromSource,
    arguments: &'a ArriveArguments,
    /// The process that receives, once there was something to receive.
    receiver: Option<Receiver>,
}

impl Arrival<'_> {
    fn carry_out(&mut self, ends: &mut Ends) -> Result<(), VmError> {
        ends.say(&FromTarget::Ready)?;
        loop {
            match ends.message()? {
                FromSource::Receive { snapshot } => {
                    self.check_first(&snapshot)?;
                    let receiver = match &mut self.receiver {
                        Some(receiver) => receiver,
                        empty => empty.insert(Receiver::start(
                            &mut command("arrive", self.arguments),
                            self.hello,
                        )?),
                    };
                    let answer = receiver.receive(snapshot, ends)?;
                    fault_point(FaultPoint::MigrationReceived);
                    ends.say(&answer)?;
                }
                FromSource::Restore { snapshot } => {
                    self.check_first(&snapshot)?;
                    // The snapshots before are gone then: all blocks are this one's.
                    self.receiver = None;
                    self.restore(&snapshot, ends)?;
                    ends.input.get_mut().set_limit(GO_TIMEOUT);
                    ends.say(&FromTarget::Restored)?;
                }
                FromSource::Go { paused } => return self.go(paused, ends),
                FromSource::Ask => {
                    let taken = self.give_up()? == Decided::Taken;
                    return ends.say(&match taken {
                        true => FromTarget::Taken,
                        false => FromTarget::NotTaken,
                    });
                }
                FromSource::Hello { .. } => return Err(out_of_turn()),
            }
        }
    }

    /// Refuses a snapshot that is not of this migration, and a VM whose name is taken.
    fn check_first(&self, snapshot: &str) -> Result<(), VmError> {
        let vm = &self.names.vm;
        if !self.names.is_of_this(snapshot) {
            return Err(out_of_turn());
        }
        check_vm_name(vm)?;
        match self.dir.is_living(vm)? {
            false => Ok(()),
            true => Err(
                VmError::new(ErrorKind::Refused, format!("the name '{vm}' is taken"))
                    .with_remedy(format!("end that VM there with 'nvvmm stop {vm}'")),
            ),
        }
    }

    /// Builds the VM, which is paused.
    fn restore(&self, snapshot: &str, ends: &mut Ends) -> Result<(), VmError> {
        let mut restore = command("restore", self.arguments);
        restore.args([snapshot, "--name", &self.names.vm]);
        restore.args(["--once", "--paused", "--detach", "--quiet"]);
        restore.args(&self.arguments.options);
        run(&mut restore, ends)?;
        fault_point(FaultPoint::MigrationRestored);
        Ok(())
    }

    fn go(&self, paused: bool, ends: &mut Ends) -> Result<(), VmError> {
        let mut decision = Decision::lock(&self.dir, &self.names.id)?;
        if decision.decided()? != Decided::Open {
            return Err(out_of_turn());
        }
        if !paused {
            connect(&self.dir.find(&self.names.vm)?)?.resume()?;
        }
        fault_point(FaultPoint::MigrationResumed);
        decision.decide(Decided::Taken)?;
        drop(decision);
        fault_point(FaultPoint::MigrationTaken);
        // The VM is here. A source that does not hear it asks once more.
        if let Err(error) = ends.say(&FromTarget::Taken) {
            tracing::warn!(%error, "the source was not told that the VM has arrived");
        }
        if let Err(error) = self.remove_snapshots(None) {
            tracing::warn!(%error, "snapshots of the migration stay in the pool");
        }
        Ok(())
    }

    /// Decides that the VM stays with the source, unless it was decided that it is here. Removes
    /// what has arrived of it then.
    fn give_up(&self) -> Result<Decided, VmError> {
        let mut decision = Decision::lock(&self.dir, &self.names.id)?;
        match decision.decided()? {
            Decided::Taken => return Ok(Decided::Taken),
            Decided::NotTaken => {}
            Decided::Open => decision.decide(Decided::NotTaken)?,
        }
        let vm = &self.names.vm;
        if self.dir.is_living(vm)? {
            let entry = self.dir.find(vm)?;
            let origin = connect(&entry)?.status()?.origin;
            let is_ours =
                matches!(&origin, VmOrigin::Snapshot { name } if self.names.is_of_this(name));
            if is_ours {
                kill_one(&self.dir, vm)?;
                self.dir.forget(vm)?;
            }
        }
        self.remove_snapshots(None)?;
        Ok(Decided::NotTaken)
    }

    /// Removes the snapshots of this migration but one.
    fn remove_snapshots(&self, kept: Option<&str>) -> Result<(), VmError> {
        let Some(path) = pool_path::found_if_any(&self.arguments.pool)? else {
            return Ok(());
        };
        self.names.remove_snapshots(&*pool_path::open(&path)?, kept)
    }
}

/// A command of this program, in the same pool.
fn command(name: &str, arguments: &ArriveArguments) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("nvvmm").arg(name);
    if let Some(pool) = arguments.pool.path() {
        command.arg("--pool").arg(pool);
    }
    command
}

/// The process that receives snapshots.
struct Receiver {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<Interruptible>,
}

impl Receiver {
    fn start(command: &mut Command, hello: &FromSource) -> Result<Self, VmError> {
        let mut child = command
            .arg("--receiver")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed("start", &e))?;
        let no_pipe = || failed("start", &io::ErrorKind::BrokenPipe.into());
        let to = child.stdin.take().ok_or_else(no_pipe)?;
        let from = File::from(OwnedFd::from(child.stdout.take().ok_or_else(no_pipe)?));
        let mut from = Interruptible::input(from, &Arc::default());
        from.set_limit(WORKING_EVERY);
        let mut receiver = Self {
            child,
            to: BufWriter::with_capacity(DATA_BYTES_MAX, to),
            from: BufReader::new(from),
        };
        say(&mut receiver.to, hello).map_err(|e| failed("speak to", &e))?;
        Ok(receiver)
    }

    /// Carries a stream to it, and waits for its answer.
    fn receive(&mut self, snapshot: String, ends: &mut Ends) -> Result<FromTarget, VmError> {
        let request = FromSource::Receive { snapshot };
        // When it has failed, its answer says so; the rest of the stream is for nobody.
        let mut heard = say(&mut self.to, &request);
        loop {
            let frame = ends.frame()?;
            if heard.is_ok() {
                heard = frame.write(&mut self.to);
            }
            match frame {
                Frame::Data(part) if part.is_empty() => break,
                Frame::Data(_) => {}
                Frame::Message(_) => return Err(out_of_turn()),
            }
        }
        loop {
            match Frame::read(&mut self.from) {
                Ok(Some(frame)) => {
                    return match message(&frame).map_err(|e| failed("hear from", &e))? {
                        FromTarget::Failed { error } => Err(error),
                        answer => Ok(answer),
                    };
                }
                Ok(None) => return Err(failed("hear from", &io::ErrorKind::BrokenPipe.into())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    ends.say(&FromTarget::Working)?;
                }
                Err(error) => return Err(failed("hear from", &error)),
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // What was given up is not stored any further. What was answered is done.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, with signs of life for the source.
fn run(command: &mut Command, ends: &mut Ends) -> Result<(), VmError> {
    let mut messages = tempfile::tempfile().map_err(|e| failed("start", &e))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages.try_clone().map_err(|e| failed("start", &e))?)
        .spawn()
        .map_err(|e| failed("start", &e))?;
    let mut told = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed("wait for", &e))? {
            break status;
        }
        if told.elapsed() >= WORKING_EVERY {
            ends.say(&FromTarget::Working)?;
            told = Instant::now();
        }
        thread::sleep(POLL);
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    messages
        .rewind()
        .and_then(|()| messages.take(MESSAGES_BYTES_MAX).read_to_end(&mut text))
        .map_err(|e| failed("hear from", &e))?;
    let text = String::from_utf8_lossy(&text);
    let told = text.trim().trim_start_matches("nvvmm: error: ");
    let kind = kind_of(status.code().unwrap_or_default());
    Err(match told.split_once("\n  try: ") {
        Some((told, remedy)) => VmError::new(kind, told).with_remedy(remedy),
        None if told.is_empty() => VmError::failed(format!("nvvmm ended there with {status}")),
        None => VmError::new(kind, told),
    })
}

fn failed(what: &str, error: &io::Error) -> VmError {
    VmError::io(format_args!("{what} a process of nvvmm"), error)
}

/// The kind of error that ended a command of this program with this code.
fn kind_of(exit_code: i32) -> ErrorKind {
    let all = [
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::Refused,
        ErrorKind::PoolFull,
        ErrorKind::PoolDamaged,
        ErrorKind::HostLacks,
        ErrorKind::Denied,
    ];
    let mut all = all.into_iter();
    let found = all.find(|kind| i32::from(kind.exit_code()) == exit_code);
    found.unwrap_or(ErrorKind::Failed)
}

//! Commands about VMs that have ended: `ps --all`, `logs`, `wait`, `rm-vm`.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::control::RuntimeDir;
use nvvmm::control::life::{End, Life};
use nvvmm::control::past::open_kept;
use nvvmm::control::registry::{Entry, VmRuntimePaths};
use nvvmm::{ErrorKind, VmError};
use nvvmm_devices::read_kept_output;
use nvvmm_snapshot::{ProcessState, ProcessText};

use super::args::{LogsArguments, RmVmArguments, WaitArguments};
use super::error::EXIT_FAILED;
use super::json::vm::Vm;
use super::names::{self, Choice, Chosen, Kind};
use super::output;
use super::ps_table::Row;
use super::terminal::{shown, tell};

/// Interval of looks at a log, or at a VM that is waited for.
const POLL: Duration = Duration::from_millis(50);
/// Interval of looks for a VM process that is stopped.
const STOPPED_POLL: Duration = Duration::from_secs(1);

/// A VM that has ended, in the table of `nvvmm ps --all`.
pub fn row(life: &Life) -> Row {
    let Life { start, state } = life;
    let lived = state
        .ended_unix_ns
        .map(|ended| ended.saturating_sub(start.started_unix_ns));
    let mut row = Row::new(&start.vm, "ended");
    row.from = start.snapshot.clone().unwrap_or_else(|| "boot".to_owned());
    row.why = end_text(life);
    row.reboots = state.reboot_count.to_string();
    if let Some(pool) = &start.pool {
        row.pool.clone_from(pool);
    }
    if let (Some(lived), Some(ended)) = (lived, state.ended_unix_ns) {
        row.up = output::lasting(Duration::from_nanos(lived));
        row.ended = output::moment(ended);
    }
    row
}

/// The note of `nvvmm ps` that no VM runs.
pub fn none_runs(past: usize) -> String {
    match past {
        0 => "no VM is running\n".to_owned(),
        1 => "no VM is running; 1 has ended ('nvvmm ps --all')\n".to_owned(),
        past => format!("no VM is running; {past} have ended ('nvvmm ps --all')\n"),
    }
}

/// The reason for the end of a VM.
pub fn end_text(life: &Life) -> String {
    let text = life.state.text.as_deref();
    match life.end() {
        End::PoweredOff => "the guest switched itself off".to_owned(),
        End::Rebooted => "the guest rebooted".to_owned(),
        End::TripleFault => format!("triple fault: {}", text.unwrap_or("unknown")),
        End::Stopped => "stopped".to_owned(),
        End::Snapshotted => format!("snapshot {}", text.unwrap_or("unknown")),
        End::Killed => "the VM process was killed".to_owned(),
        End::Failed => format!("failed: {}", text.unwrap_or("unknown")),
    }
}

/// `nvvmm rm-vm`.
pub fn remove(arguments: &RmVmArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    let past: Vec<String> = dir.past()?.into_iter().map(|life| life.start.vm).collect();
    let choice = Choice {
        given: &arguments.vms,
        all: arguments.all,
        force: arguments.force,
    };
    Ok(Chosen::of(&choice, Kind::PastVm, &past).each(|name| dir.forget(name)))
}

/// `nvvmm logs`.
pub fn logs(arguments: &LogsArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let vm = &arguments.vm;
    let paths = dir.paths(vm);
    if !paths.log.exists() && !paths.output.exists() && !dir.is_living(vm)? {
        // Says what there is.
        dir.past_of(vm)?;
    }
    let mut source: Box<dyn Source> = match arguments.console {
        true => Box::new(ConsoleOutput::open(&paths)?),
        false => Box::new(Log::open(&paths)?),
    };
    loop {
        // Asked before the last look: what came until then is printed.
        let goes_on = arguments.follow && dir.is_living(vm)?;
        let new = source
            .new_bytes()
            .map_err(|e| VmError::io("read what is kept of a VM", &e))?;
        if !new.is_empty() && !print_new(&new, arguments.console)? {
            return Ok(());
        }
        if !goes_on {
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// Something that is kept of a VM, and may still grow.
trait Source {
    /// Bytes that came since the last call.
    fn new_bytes(&mut self) -> io::Result<Vec<u8>>;
}

struct Log {
    before: Option<File>,
    newest: Option<File>,
    read: u64,
}

impl Log {
    fn open(paths: &VmRuntimePaths) -> Result<Self, VmError> {
        let log = Self {
            before: open_kept(&paths.log_before)?,
            newest: open_kept(&paths.log)?,
            read: 0,
        };
        if log.newest.is_none() {
            let name = &paths.name;
            tell(&format!(
                "nvvmm: {name} has no log: a VM in the foreground writes to its terminal\n"
            ));
        }
        Ok(log)
    }
}

impl Source for Log {
    fn new_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut new = Vec::new();
        if let Some(mut before) = self.before.take() {
            before.read_to_end(&mut new)?;
        }
        if let Some(newest) = &mut self.newest {
            // It was full, and begins anew.
            if newest.metadata()?.len() < self.read {
                self.read = 0;
            }
            newest.seek(SeekFrom::Start(self.read))?;
            self.read += newest.read_to_end(&mut new)? as u64;
        }
        Ok(new)
    }
}

struct ConsoleOutput {
    kept: Option<File>,
    read: u64,
}

impl ConsoleOutput {
    fn open(paths: &VmRuntimePaths) -> Result<Self, VmError> {
        Ok(Self {
            kept: open_kept(&paths.output)?,
            read: 0,
        })
    }
}

impl Source for ConsoleOutput {
    fn new_bytes(&mut self) -> io::Result<Vec<u8>> {
        let Some(kept) = &self.kept else {
            return Ok(Vec::new());
        };
        let latest = read_kept_output(kept)?;
        let new = usize::try_from(latest.written.saturating_sub(self.read)).unwrap_or(usize::MAX);
        self.read = latest.written;
        let from = latest.bytes.len().saturating_sub(new);
        Ok(latest.bytes[from..].to_vec())
    }
}

/// Prints to stdout; false when nobody reads it any more. Output of a guest goes to a program or a
/// file as it is, and to a terminal without what that would obey.
fn print_new(new: &[u8], is_guests: bool) -> Result<bool, VmError> {
    output::check_stdout()?;
    let mut out = io::stdout().lock();
    let text = match is_guests && !out.is_terminal() {
        true => new.to_vec(),
        false => for_terminal(new).into_bytes(),
    };
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(VmError::io("write to stdout", &e)),
    }
}

/// Text without carriage returns and control sequences (ECMA-48, 5.4: `ESC [`, parameters, one
/// final byte); what else a terminal obeys is escaped.
fn for_terminal(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| ('@'..='~').contains(&c));
        plain.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    shown(&plain).into_owned()
}

/// A VM that is waited for.
struct Waited {
    name: String,
    /// The VM process, while it lives.
    entry: Option<Entry>,
    /// Begin of the VM that is meant: another one may get its name.
    started_unix_ns: Option<u64>,
    told_stopped: bool,
}

/// The end of a VM that was waited for.
enum Ended {
    /// With its record.
    Kept(Box<Life>),
    /// Without a record.
    Unknown(String),
}

impl Ended {
    fn is_in_order(&self) -> bool {
        match self {
            Self::Kept(life) => life.end().is_in_order(),
            Self::Unknown(_) => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Kept(life) => format!("{}: {}\n", life.start.vm, end_text(life)),
            Self::Unknown(name) => format!("{name}: has ended, and no record tells how\n"),
        }
    }
}

impl Waited {
    fn find(dir: &RuntimeDir, name: &str) -> Result<Self, VmError> {
        let entry = match dir.find(name) {
            Ok(entry) => Some(entry),
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let life = match entry {
            Some(_) => dir.life(name),
            None => Some(dir.past_of(name)?),
        };
        Ok(Self {
            name: name.to_owned(),
            entry,
            started_unix_ns: life.map(|life| life.start.started_unix_ns),
            told_stopped: false,
        })
    }

    fn ended(&self, dir: &RuntimeDir) -> Result<Option<Ended>, VmError> {
        let is_unlisted = |entry: &Entry| entry.is_unlisted && entry.process().is_ok();
        let is_living = dir.is_living(&self.name)? || self.entry.as_ref().is_some_and(is_unlisted);
        let life = dir.life(&self.name);
        let is_it = life.as_ref().map(|life| life.start.started_unix_ns) == self.started_unix_ns;
        Ok(match life {
            _ if is_living && is_it => None,
            Some(life) if is_it => Some(Ended::Kept(Box::new(life))),
            _ => Some(Ended::Unknown(self.name.clone())),
        })
    }

    /// Tells once that the VM process is stopped: it does not end by itself.
    fn tell_if_stopped(&mut self) {
        let process = self.entry.as_ref().and_then(|entry| entry.process().ok());
        let Some(pid) = process.map(|process| process.pid()) else {
            return;
        };
        let is_stopped = ProcessState::of(pid).is_some_and(ProcessState::is_stopped);
        if is_stopped && !self.told_stopped {
            tell(&format!(
                "nvvmm: waits for {}: {}; 'kill -CONT {pid}' lets it go on\n",
                self.name,
                ProcessText(pid)
            ));
        }
        self.told_stopped = is_stopped;
    }
}

/// `nvvmm wait`.
pub fn wait(arguments: &WaitArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    let choice = arguments.names.choice(false);
    let chosen = Chosen::of(&choice, Kind::Vm, &names::running(&dir)?);
    let chosen = chosen.names()?;
    let found = chosen.iter().map(|name| Waited::find(&dir, name));
    let mut waited = found.collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let mut looked = begun;
    let mut ended: Vec<Ended> = Vec::new();
    while !waited.is_empty() {
        let mut left = Vec::new();
        for mut vm in waited {
            match vm.ended(&dir)? {
                Some(end) => {
                    if !arguments.json.json {
                        output::print(&end.text())?;
                    }
                    ended.push(end);
                }
                None => {
                    if looked.elapsed() >= STOPPED_POLL {
                        vm.tell_if_stopped();
                    }
                    left.push(vm);
                }
            }
        }
        waited = left;
        if looked.elapsed() >= STOPPED_POLL {
            looked = Instant::now();
        }
        let late = arguments
            .timeout
            .is_some_and(|limit| begun.elapsed() >= limit);
        if late && !waited.is_empty() {
            return Err(still_running(&waited, begun.elapsed()));
        }
        if !waited.is_empty() {
            thread::sleep(POLL);
        }
    }
    if arguments.json.json {
        let known = ended.iter().filter_map(|end| match end {
            Ended::Kept(life) => Some(Vm::ended(life)),
            Ended::Unknown(_) => None,
        });
        output::print_json(&known.collect::<Vec<_>>())?;
    }
    Ok(match ended.iter().all(Ended::is_in_order) {
        true => ExitCode::SUCCESS,
        false => EXIT_FAILED.into(),
    })
}

fn still_running(waited: &[Waited], after: Duration) -> VmError {
    let names: Vec<&str> = waited.iter().map(|vm| vm.name.as_str()).collect();
    let still = match names.len() {
        1 => "still runs",
        _ => "still run",
    };
    VmError::new(
        ErrorKind::Refused,
        format!(
            "{} {still} after {}",
            names.join(", "),
            output::lasting(after)
        ),
    )
    .with_remedy("wait again, or end them with 'nvvmm stop'")
}

#[cfg(test)]
#[path = "past_commands_test.rs"]
mod past_commands_test;

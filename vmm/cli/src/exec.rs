//! `nvvmm exec`: a program in the guest, with this process's standard streams.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nvvmm::agent::call::{self, call};
use nvvmm::control::RuntimeDir;
use nvvmm::sys::terminal::size_of;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{
    DATA_BYTES_MAX, Ended, Exec, FRAME_BYTES_MAX, FailedBecause, FrameError, FromAgent,
    TerminalSize, ToAgent, receive, send,
};
use signal_hook::consts::{SIGPIPE, SIGWINCH};
use signal_hook::iterator::Signals;

use super::args::ExecArguments;
use super::terminal::{RawTerminal, leave_raw};
use super::{error, output};

/// Exit codes of shells for a program that does not exist, and one that cannot be run.
const EXIT_NO_PROGRAM: u8 = 127;
const EXIT_NOT_RUN: u8 = 126;
/// nvvmm itself failed. No program's own codes are used for that but this one, as ssh(1) does.
const EXIT_SELF: u8 = 255;
/// Added to a signal's number for a program that it has ended.
const EXIT_SIGNAL: i32 = 128;

/// Runs the program; its status becomes this process's.
pub fn run(arguments: ExecArguments) -> ExitCode {
    run_in_guest(arguments).unwrap_or_else(|failure| {
        error::print(&failure.error);
        failure.code.into()
    })
}

struct Failure {
    error: VmError,
    code: u8,
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        Self {
            error,
            code: EXIT_SELF,
        }
    }
}

fn run_in_guest(arguments: ExecArguments) -> Result<ExitCode, Failure> {
    let ExecArguments {
        vm,
        terminal,
        interactive: _,
        environment,
        command,
    } = arguments;
    if terminal && !stdin().is_terminal() {
        return Err(
            VmError::new(ErrorKind::Usage, "--tty needs a terminal on stdin")
                .with_remedy("leave --tty out")
                .into(),
        );
    }
    let size = terminal
        .then(|| size_of(stdin().as_fd()))
        .transpose()
        .map_err(failed)?;
    let exec = Exec {
        command: command.into_iter().map(OsString::into_vec).collect(),
        environment: environment_for(terminal, environment),
        terminal: size,
    };
    check_length(&exec)?;
    let request = ToAgent::Exec(exec);
    let entry = RuntimeDir::of_user()?.find(&vm)?;
    let stream = call(&entry.paths, call::PATIENCE)?;
    send(&stream, &request).map_err(|error| call::broken(&vm, error))?;
    carry(&vm, &stream, terminal)
}

/// Bytes that arguments and variables may have in all, with a little for each of them. They go to
/// the agent in one message, which has something else in it, too.
const WORDS_BYTES_MAX: usize = FRAME_BYTES_MAX - (4 << 10);
/// Bytes that the message takes for a word besides the word itself: at most its length as a number.
const WORD_BYTES: usize = 4;

/// Refuses words that have no room in the message to the agent.
fn check_length(exec: &Exec) -> Result<(), VmError> {
    let variables = exec.environment.iter();
    let variables = variables.map(|(name, value)| name.len() + value.len() + 2 * WORD_BYTES);
    let arguments = exec.command.iter().map(|word| word.len() + WORD_BYTES);
    let found: usize = arguments.chain(variables).sum();
    if found <= WORDS_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the program's arguments and variables have {}, and exec takes at most {}",
        output::size(found as u64),
        output::size(WORDS_BYTES_MAX as u64)
    );
    Err(VmError::new(ErrorKind::Usage, message).with_remedy(
        "give them on the program's stdin (as 'xargs' reads them), or in a file with 'nvvmm cp'",
    ))
}

fn failed(source: io::Error) -> VmError {
    VmError::io("talk to the agent", &source)
}

fn say(to_agent: &Mutex<UnixStream>, message: &ToAgent) -> Result<(), FrameError> {
    let stream = to_agent.lock().unwrap_or_else(PoisonError::into_inner);
    send(&*stream, message)
}

/// The program gets the variables that were given, and knows the terminal that it is shown on.
fn environment_for(terminal: bool, given: Vec<(String, String)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let kind = std::env::var_os("TERM").filter(|_| terminal);
    let kind = kind.map(|kind| (b"TERM".to_vec(), kind.into_vec()));
    let given = given
        .into_iter()
        .map(|(name, value)| (name.into_bytes(), value.into_bytes()));
    kind.into_iter().chain(given).collect()
}

/// Carries this process's standard streams to and from a program that runs, until it has ended; its
/// status becomes this process's.
pub(super) fn follow(vm: &str, stream: &UnixStream, terminal: bool) -> Result<ExitCode, VmError> {
    carry(vm, stream, terminal).map_err(|failure| failure.error)
}

fn carry(vm: &str, stream: &UnixStream, terminal: bool) -> Result<ExitCode, Failure> {
    let to_agent = Arc::new(Mutex::new(stream.try_clone().map_err(failed)?));
    let raw = if terminal {
        follow_size(&to_agent)?;
        RawTerminal::enter()?
    } else {
        None
    };
    carry_input(&to_agent)?;
    let ended = carry_output(vm, stream);
    drop(raw);
    ended
}

/// Tells the agent when the terminal has another size.
fn follow_size(to_agent: &Arc<Mutex<UnixStream>>) -> Result<(), VmError> {
    let mut signals = Signals::new([SIGWINCH]).map_err(failed)?;
    let to_agent = Arc::clone(to_agent);
    spawn("terminal-size", move || {
        for _ in signals.forever() {
            let resized = size_of(stdin().as_fd())
                .map(|size: TerminalSize| say(&to_agent, &ToAgent::Resize(size)));
            if !matches!(resized, Ok(Ok(()))) {
                return;
            }
        }
    })
}

/// Carries stdin to the agent; this process does not wait for it to end.
fn carry_input(to_agent: &Arc<Mutex<UnixStream>>) -> Result<(), VmError> {
    let to_agent = Arc::clone(to_agent);
    spawn("input", move || {
        let mut bytes = vec![0; DATA_BYTES_MAX];
        loop {
            let message = match nix::unistd::read(stdin(), &mut bytes) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(0) | Err(_) => ToAgent::End,
                Ok(len) => ToAgent::Data(bytes[..len].to_vec()),
            };
            if say(&to_agent, &message).is_err() || message == ToAgent::End {
                return;
            }
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), VmError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(failed)
}

/// Shows what the program puts out, until it has ended.
fn carry_output(vm: &str, stream: &UnixStream) -> Result<ExitCode, Failure> {
    loop {
        match receive(stream).map_err(|error| call::broken(vm, error))? {
            FromAgent::Data(bytes) => {
                output::check_stdout()?;
                show(stdout(), &bytes)?;
            }
            FromAgent::ErrorData(bytes) => show(stderr(), &bytes)?,
            FromAgent::Exited(ended) => return Ok(exit_code(ended).into()),
            FromAgent::Failed { because, message } => {
                let code = match because {
                    FailedBecause::NotFound => EXIT_NO_PROGRAM,
                    FailedBecause::Refused | FailedBecause::Failed => EXIT_NOT_RUN,
                };
                let error = call::failed(vm, because, &message);
                return Err(Failure { error, code });
            }
            _ => {
                return Err(VmError::failed(format!(
                    "the agent in {vm} sent an unexpected message"
                ))
                .into());
            }
        }
    }
}

fn show(mut out: impl Write, bytes: &[u8]) -> Result<(), VmError> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // As a program of this host ends whose reader went away: by SIGPIPE, without a word.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            leave_raw();
            std::process::exit(EXIT_SIGNAL + SIGPIPE);
        }
        done => done.map_err(|e| VmError::io("show what the program puts out", &e)),
    }
}

/// The status that a shell would show.
fn exit_code(ended: Ended) -> u8 {
    match ended {
        Ended::Code(code) => code as u8,
        Ended::Signal(signal) => EXIT_SIGNAL.wrapping_add(signal) as u8,
    }
}

#[cfg(test)]
#[path = "exec_test.rs"]
mod exec_test;

//! Programs that the host runs in the guest.
//!
//! The thread that serves the stream waits for the program; one thread carries input, one or two carry output. A program
//! whose host goes away is hung up on, as with a terminal that is closed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nvvmm_protocol::{
    DATA_BYTES_MAX, Ended, Exec, FailedBecause, FromAgent, TerminalSize, ToAgent, receive, send,
};

use crate::serve::{Failure, Stream};
use crate::sys;

/// What ends the input that is typed at a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// Runs a program to its end.
pub fn run(exec: &Exec, stream: &mut impl Stream) -> Result<(), Failure> {
    let mut started = start(exec)?;
    let child = Arc::new(Mutex::new(Some(started.child.id())));
    let failed = |error: io::Error| Failure::io("cannot carry the program's output", &error);
    let (exited, running) = io::pipe().map_err(failed)?;
    let output = Arc::new(Mutex::new(stream.another().map_err(failed)?));
    let mut carriers = Vec::new();
    for (source, wrap) in started.outputs {
        let (output, exited) = (Arc::clone(&output), exited.try_clone().map_err(failed)?);
        carriers.push(thread::spawn(move || {
            carry_output(source, wrap, &exited, &output)
        }));
    }
    let from_host = stream.another().map_err(failed)?;
    let input = Input {
        sink: Some(started.input),
        terminal: started.is_terminal,
        child: Arc::clone(&child),
    };
    let input = thread::spawn(move || input.carry(from_host));

    sys::wait_for_exit(started.child.id());
    // Before it is reaped: its number may then be another's.
    *child.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let status = started.child.wait();
    drop(running);
    for carrier in carriers {
        let _ = carrier.join();
    }
    let status = status.map_err(|error| Failure::io("cannot wait for the program", &error))?;
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    };
    let said = send(&mut *stream, &FromAgent::Exited(ended));
    // Until the host ends the stream; then there is nothing more to hear.
    let _ = input.join();
    Ok(said?)
}

/// How the host is told of output.
type Wrap = fn(Vec<u8>) -> FromAgent;

struct Started {
    child: Child,
    input: File,
    outputs: Vec<(File, Wrap)>,
    is_terminal: bool,
}

fn start(exec: &Exec) -> Result<Started, Failure> {
    let [program, arguments @ ..] = &exec.command[..] else {
        let message = "there is no program to run".to_owned();
        return Err(Failure::Said(FailedBecause::Refused, message));
    };
    let what = String::from_utf8_lossy(program).into_owned();
    let mut command = Command::new(OsStr::from_bytes(program));
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    for (name, value) in &exec.environment {
        if name.is_empty() || name.contains(&b'=') {
            let message = format!("{:?} is no name of a variable", String::from_utf8_lossy(name));
            return Err(Failure::Said(FailedBecause::Refused, message));
        }
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    sys::with_usual_signals(&mut command);
    let started = match exec.terminal {
        Some(size) => start_on_terminal(command, size),
        None => start_on_pipes(command),
    };
    started.map_err(|error| Failure::io(&what, &error))
}

fn start_on_pipes(mut command: Command) -> io::Result<Started> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let missing = || io::Error::from(ErrorKind::BrokenPipe);
    let input = OwnedFd::from(child.stdin.take().ok_or_else(missing)?);
    let output = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
    let errors = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
    sys::set_nonblocking(input.as_fd())?;
    Ok(Started {
        child,
        input: input.into(),
        outputs: vec![
            (output.into(), FromAgent::Data),
            (errors.into(), FromAgent::ErrorData),
        ],
        is_terminal: false,
    })
}

fn start_on_terminal(mut command: Command, size: TerminalSize) -> io::Result<Started> {
    let (ours, theirs) = sys::open_terminal()?;
    sys::resize(ours.as_fd(), size)?;
    sys::lead_session(&mut command);
    let child = command
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()?;
    // Keeps no descriptor of the program's side: the terminal is to end with the program.
    drop(command);
    sys::set_nonblocking(ours.as_fd())?;
    Ok(Started {
        child,
        input: ours.try_clone()?.into(),
        outputs: vec![(ours.into(), FromAgent::Data)],
        is_terminal: true,
    })
}

/// Carries output until it ends, or until the program has ended and there is none for now: what it has left running in
/// the background may hold the other end for ever.
fn carry_output(mut source: File, wrap: Wrap, exited: &PipeReader, stream: &Mutex<impl Stream>) {
    let mut bytes = vec![0; DATA_BYTES_MAX];
    loop {
        let Ok([readable, is_over]) = sys::wait_readable([source.as_fd(), exited.as_fd()]) else {
            return;
        };
        if !readable {
            if is_over {
                return;
            }
            continue;
        }
        match source.read(&mut bytes) {
            Ok(0) => return,
            Ok(len) => {
                let message = wrap(bytes[..len].to_vec());
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                // A host that is gone is noticed by whoever carries the input. Reading goes on, so that the program
                // can end.
                let _ = send(&mut *stream, &message);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // A terminal without a program: EIO.
            Err(_) => return,
        }
    }
}

/// The direction from the host to the program.
struct Input {
    sink: Option<File>,
    terminal: bool,
    /// The program's process id, while it was not reaped.
    child: Arc<Mutex<Option<u32>>>,
}

impl Input {
    /// Carries what comes until the host ends the stream.
    fn carry(mut self, mut stream: impl Stream) {
        while let Ok(message) = receive(&mut stream) {
            match message {
                ToAgent::Data(bytes) => self.write(&bytes, &stream),
                ToAgent::End if self.terminal => self.write(&[END_OF_INPUT], &stream),
                ToAgent::End => self.sink = None,
                ToAgent::Resize(size) => {
                    if let Some(terminal) = self.sink.as_ref().filter(|_| self.terminal) {
                        // One that cannot be resized is gone.
                        let _ = sys::resize(terminal.as_fd(), size);
                    }
                }
                _ => break,
            }
        }
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = *child {
            sys::hang_up(child);
        }
    }

    /// Writes all of `bytes`, unless the program takes no more or the host goes away meanwhile.
    fn write(&mut self, bytes: &[u8], stream: &impl Stream) {
        let mut rest = bytes;
        while let Some(sink) = &mut self.sink
            && !rest.is_empty()
        {
            match sys::wait_writable_unless_ended(sink.as_fd(), stream.as_fd()) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            match sink.write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(_) => self.sink = None,
            }
        }
    }
}

#[cfg(test)]
#[path = "program_test.rs"]
mod program_test;

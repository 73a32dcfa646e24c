//! The connection to the other host: `nvvmm arrive` there, started by ssh(1) or a program like it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nvvmm::VmError;

use super::message::{DATA_BYTES_MAX, DataWriter, Frame, FromSource, FromTarget, message, say};
use crate::interruption::Interruptible;

/// The other host may be reading memory, while it takes nothing, for so many times its silence.
const UNREAD_FACTOR: u32 = 10;

/// A host to migrate to: `ssh://[USER@]HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `HOST` or `USER@HOST`.
    login: String,
    port: Option<u16>,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || "write the host as ssh://HOST or ssh://USER@HOST:PORT".to_owned();
        let rest = text.strip_prefix("ssh://").ok_or_else(usage)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A number in brackets is an IPv6 address.
        let (login, port) = match rest.rsplit_once(':') {
            Some((login, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| format!("'{port}' is no port"))?;
                (login, Some(port))
            }
            _ => (rest, None),
        };
        let is_fit = |c: char| c.is_alphanumeric() || "._-@:[]%".contains(c);
        // A name that begins with '-' would be an option of ssh.
        if login.is_empty() || login.starts_with('-') || !login.chars().all(is_fit) {
            return Err(usage());
        }
        Ok(Self {
            login: login.replace(['[', ']'], ""),
            port,
        })
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.login)
    }
}

/// The way to `nvvmm arrive` on the other host.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Program that runs a command on a host: ssh, or one that takes its arguments.
    pub(super) ssh: String,
    /// The host.
    pub(super) host: Host,
    /// The command there, and its arguments.
    pub(super) command: Vec<String>,
    /// Time after which a host that says nothing counts as gone.
    pub(super) silence: Duration,
}

/// An open connection.
pub(super) struct Link {
    way: Way,
    program: Child,
    input: BufReader<Interruptible>,
    /// `None` when nothing more is said.
    output: Option<BufWriter<Interruptible>>,
}

impl Link {
    /// Starts the program, and greets.
    ///
    /// # Errors
    /// The program cannot be started; the other end is no `nvvmm arrive`, or refuses.
    pub(super) fn open(
        way: &Way,
        hello: &FromSource,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Self, VmError> {
        let mut command = Command::new(&way.ssh);
        if let Some(port) = way.host.port {
            command.args(["-p", &port.to_string()]);
        }
        let there: Vec<String> = way.command.iter().map(|word| quoted(word)).collect();
        command.args(["--", &way.host.login, &there.join(" ")]);
        let failed = |e: io::Error| VmError::io(format_args!("start {}", way.ssh), &e);
        let mut program = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let no_pipe = || failed(io::ErrorKind::BrokenPipe.into());
        let input = OwnedFd::from(program.stdout.take().ok_or_else(no_pipe)?);
        let output = File::from(OwnedFd::from(program.stdin.take().ok_or_else(no_pipe)?));
        let mut input = Interruptible::input(File::from(input), interrupted);
        input.set_limit(way.silence);
        let mut output = Interruptible::output(&output, interrupted).map_err(failed)?;
        output.set_limit(way.silence * UNREAD_FACTOR);
        let mut link = Self {
            way: way.clone(),
            program,
            input: BufReader::new(input),
            output: Some(BufWriter::with_capacity(DATA_BYTES_MAX, output)),
        };
        link.say(hello)?;
        match link.answer()? {
            FromTarget::Ready => Ok(link),
            other => Err(link.unexpected(&other)),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn say(&mut self, message: &FromSource) -> Result<(), VmError> {
        let said = match &mut self.output {
            Some(output) => say(output, message),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        said.map_err(|e| self.broken(&e))
    }

    /// The next answer that says something new.
    ///
    /// # Errors
    /// The connection broke, or is silent for too long; the other end has failed.
    pub(super) fn answer(&mut self) -> Result<FromTarget, VmError> {
        loop {
            let frame = match Frame::read(&mut self.input) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(self.broken(&error)),
            };
            match message(&frame).map_err(|e| self.broken(&e))? {
                FromTarget::Working => {}
                FromTarget::Failed { error } => return Err(self.of_other(&error)),
                other => return Ok(other),
            }
        }
    }

    /// Sends a stream that `write` writes.
    ///
    /// # Errors
    /// Those of `write`; the connection broke.
    pub(super) fn stream<T>(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<T, VmError>,
    ) -> Result<T, VmError> {
        let Some(output) = &mut self.output else {
            return Err(self.broken(&io::ErrorKind::NotConnected.into()));
        };
        let mut data = DataWriter::begin(output);
        let mut buffered = BufWriter::with_capacity(DATA_BYTES_MAX, &mut data);
        let written = write(&mut buffered);
        let flushed = buffered.flush();
        drop(buffered);
        let ended = flushed.and_then(|()| data.end());
        let ended = written.and_then(|written| match ended {
            Ok(()) => Ok(written),
            Err(error) => Err(self.broken(&error)),
        });
        // It may have said why it takes no more.
        ended.map_err(|error| self.failure_told().unwrap_or(error))
    }

    /// The failure that the other end has told before the connection ended.
    fn failure_told(&mut self) -> Option<VmError> {
        while let Ok(Some(frame)) = Frame::read(&mut self.input) {
            if let Ok(FromTarget::Failed { error }) = message(&frame) {
                return Some(self.of_other(&error));
            }
        }
        None
    }

    /// Error of an answer that does not fit.
    pub(super) fn unexpected(&self, answer: &FromTarget) -> VmError {
        VmError::failed(format!(
            "{} gave the wrong answer: {answer:?}",
            self.way.host
        ))
    }

    fn of_other(&self, error: &VmError) -> VmError {
        let told = VmError::new(error.kind, format!("{}: {}", self.way.host, error.message));
        match &error.remedy {
            Some(remedy) => told.with_remedy(remedy.clone()),
            None => told,
        }
    }

    fn broken(&mut self, error: &io::Error) -> VmError {
        if crate::interruption::is_stop(error) {
            return VmError::failed("the migration was interrupted");
        }
        let (ssh, host) = (&self.way.ssh, &self.way.host);
        VmError::failed(format!("the connection to {host} by {ssh} ended: {error}")).with_remedy(
            format!("try '{ssh} {host} nvvmm --version'; both hosts need nvvmm of one version"),
        )
    }

    /// Says no more, and waits until the other end has tidied up, or is silent for too long.
    pub(super) fn close(mut self) {
        self.end_output();
        // It may have broken before.
        let _ = self.input.read_to_end(&mut Vec::new());
    }

    /// Ends the output. Nothing of a stream that was given up is sent.
    fn end_output(&mut self) {
        self.output.take().map(BufWriter::into_parts);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end_output();
        // It may have ended.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A word of a command line for a POSIX shell, as ssh gives it to one.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
#[path = "link_test.rs"]
mod link_test;

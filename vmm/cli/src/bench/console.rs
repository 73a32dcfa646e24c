//! Talks to the bare-metal guest on its console (guest/bare-metal/README.md).

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use nvvmm::VmError;

/// Longest time that the guest may take for an answer.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(200);

/// Connected to the console's socket.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Console {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, VmError> {
        let stream = UnixStream::connect(path);
        Self::of(stream.map_err(|e| VmError::io("connect to the guest's console", &e))?)
    }

    /// Talks over a stream that is connected already.
    ///
    /// # Errors
    /// It is no socket any more.
    pub fn of(stream: UnixStream) -> Result<Self, VmError> {
        stream
            .set_read_timeout(Some(POLL))
            .map_err(|e| VmError::io("wait for the guest's console", &e))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Types a command and waits for its answer, `@ <first word of the command> ...`.
    ///
    /// # Errors
    /// The guest refuses, finds its memory wrong, or does not answer.
    pub fn ask(&mut self, command: &str) -> Result<String, VmError> {
        self.ask_while(command, || Ok(()))
    }

    /// Does the same, but gives up when `can_answer` fails: no answer will come.
    ///
    /// # Errors
    /// As [`Console::ask`], and what `can_answer` says.
    pub fn ask_while(
        &mut self,
        command: &str,
        can_answer: impl Fn() -> Result<(), VmError>,
    ) -> Result<String, VmError> {
        let io = |e| VmError::io("talk to the guest", &e);
        self.stream
            .write_all(format!("{command}\n").as_bytes())
            .map_err(io)?;
        let word = command.split(' ').next().unwrap_or_default();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let Some(line) = self.line().map_err(io)? else {
                can_answer()?;
                continue;
            };
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["@", "err", ..] | ["@", _, "bad", ..] => {
                    return Err(VmError::failed(format!(
                        "the guest answers '{command}' with: {line}"
                    )));
                }
                ["@", first, ..] if first == word => return Ok(line),
                _ => {}
            }
        }
        Err(VmError::failed(format!(
            "the guest does not answer '{command}' within {} s",
            PATIENCE.as_secs()
        )))
    }

    /// The next line; `None` when none has come yet.
    fn line(&mut self) -> std::io::Result<Option<String>> {
        if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
        Ok(None)
    }
}

/// The number behind `name=` in an answer.
///
/// # Errors
/// There is none.
pub fn number(answer: &str, name: &str) -> Result<u64, VmError> {
    match numbers(answer, name)?[..] {
        [number] => Ok(number),
        _ => Err(not_said(answer, name)),
    }
}

/// The numbers behind `name=`, with commas between them, in an answer.
///
/// # Errors
/// There are none.
pub fn numbers(answer: &str, name: &str) -> Result<Vec<u64>, VmError> {
    let mut values = answer
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='));
    let found = values.find(|(key, _)| *key == name);
    let found =
        found.and_then(|(_, list)| list.split(',').map(|number| number.parse().ok()).collect());
    found.ok_or_else(|| not_said(answer, name))
}

fn not_said(answer: &str, name: &str) -> VmError {
    VmError::failed(format!("the guest does not say {name}: {answer}"))
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;

//! A program in the guest whose input is written, or whose output is read.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nvvmm::agent::call;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{
    DATA_BYTES_MAX, Ended, Exec, FailedBecause, FromAgent, ToAgent, receive, send,
};

/// Longest text of a program that an error repeats, in bytes, and longest short output.
const SAID_BYTES_MAX: usize = 2000;

/// A program that runs in the guest.
pub struct Program {
    vm: String,
    stream: UnixStream,
}

impl Program {
    /// Starts a program by a stream to the agent.
    ///
    /// # Errors
    /// The agent does not answer. If the guest has no such program, it says so later.
    pub fn start(vm: &str, stream: UnixStream, command: &[&OsStr]) -> Result<Self, VmError> {
        let request = ToAgent::Exec(Exec {
            command: command
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            environment: Vec::new(),
            terminal: None,
        });
        send(&stream, &request).map_err(|error| call::broken(vm, error))?;
        Ok(Self {
            vm: vm.to_owned(),
            stream,
        })
    }

    /// Its short output, when it has succeeded.
    pub fn output(self) -> Result<Vec<u8>, VmError> {
        let never = Arc::new(AtomicBool::new(false));
        let mut output = self.read_from(&never)?;
        let mut said = Vec::new();
        let read = (&mut output)
            .take(SAID_BYTES_MAX as u64)
            .read_to_end(&mut said);
        output.end()?;
        read.map_err(|e| VmError::io("hear from the agent", &e))?;
        Ok(said)
    }

    /// Its output. It gets no input.
    pub fn read_from(self, interrupted: &Arc<AtomicBool>) -> Result<Output, VmError> {
        send(&self.stream, &ToAgent::End).map_err(|error| call::broken(&self.vm, error))?;
        Ok(Output {
            vm: self.vm,
            stream: self.stream,
            interrupted: Arc::clone(interrupted),
            fresh: Vec::new(),
            taken: 0,
            end: End::default(),
        })
    }

    /// Its input, and its end, which another thread waits for.
    pub fn feed(self) -> Result<(Input, Waiting), VmError> {
        let failed = |e: io::Error| VmError::io("talk to the agent", &e);
        let stream = self.stream.try_clone().map_err(failed)?;
        let thread = thread::Builder::new().name("answer".into()).spawn(move || {
            let mut end = End::default();
            while let Ok(message) = receive(&stream) {
                if end.take(message).is_none() {
                    break;
                }
            }
            // What is still to be written would wait for a program that is gone.
            let _ = stream.shutdown(Shutdown::Both);
            end
        });
        let broken = Arc::new(AtomicBool::new(false));
        let input = Input {
            stream: self.stream,
            broken: Arc::clone(&broken),
        };
        let waiting = Waiting {
            vm: self.vm,
            thread: thread.map_err(failed)?,
            broken,
        };
        Ok((input, waiting))
    }
}

/// End of a program, and what the program said of it.
#[derive(Debug, Default)]
struct End {
    said: Vec<u8>,
    how: Option<Result<Ended, (FailedBecause, String)>>,
}

impl End {
    /// Takes a message. Gives output; `None` when there is no more.
    fn take(&mut self, message: FromAgent) -> Option<Vec<u8>> {
        match message {
            FromAgent::Data(bytes) => return Some(bytes),
            FromAgent::ErrorData(bytes) => {
                let room = SAID_BYTES_MAX.saturating_sub(self.said.len());
                self.said.extend_from_slice(&bytes[..bytes.len().min(room)]);
                return Some(Vec::new());
            }
            FromAgent::Exited(ended) => self.how = Some(Ok(ended)),
            FromAgent::Failed { because, message } => self.how = Some(Err((because, message))),
            _ => {}
        }
        None
    }

    fn result(self, vm: &str) -> Result<(), VmError> {
        let said = String::from_utf8_lossy(&self.said).trim().to_owned();
        match self.how {
            Some(Ok(Ended::Code(0))) => Ok(()),
            Some(Ok(ended)) => Err(VmError::failed(format!(
                "{vm}: {}",
                match (said.as_str(), ended) {
                    ("", Ended::Code(code)) => format!("the copy in the guest failed with {code}"),
                    ("", Ended::Signal(signal)) => {
                        format!("the copy in the guest was ended by signal {signal}")
                    }
                    (said, _) => said.to_owned(),
                }
            ))),
            Some(Err((FailedBecause::NotFound, _))) => Err(VmError::new(
                ErrorKind::Refused,
                format!("{vm}: the guest has no program 'sh'"),
            )
            .with_remedy("copying a directory needs 'sh' and 'tar' in the guest")),
            Some(Err((because, message))) => Err(call::failed(vm, because, &message)),
            None => Err(VmError::new(
                ErrorKind::Refused,
                format!("{vm} closed the stream to its agent: the VM or the agent was stopped"),
            )),
        }
    }
}

/// Output of a program. An end of it may be early: [`Output::end`] tells.
pub struct Output {
    vm: String,
    stream: UnixStream,
    interrupted: Arc<AtomicBool>,
    fresh: Vec<u8>,
    taken: usize,
    end: End,
}

impl Output {
    /// Tells if the program has ended.
    pub fn has_ended(&self) -> bool {
        self.end.how.is_some()
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// The program has failed.
    pub fn end(mut self) -> Result<(), VmError> {
        while self.end.how.is_none() {
            match receive(&self.stream) {
                Ok(message) => drop(self.end.take(message)),
                Err(_) => break,
            }
        }
        self.end.result(&self.vm)
    }
}

impl Read for Output {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.fresh.len() && self.end.how.is_none() {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            let Ok(message) = receive(&self.stream) else {
                break;
            };
            self.fresh = self.end.take(message).unwrap_or_default();
            self.taken = 0;
        }
        let rest = &self.fresh[self.taken..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// Input of a program. Dropping it ends the input.
pub struct Input {
    stream: UnixStream,
    broken: Arc<AtomicBool>,
}

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(DATA_BYTES_MAX)];
        send(&self.stream, &ToAgent::Data(part.to_vec())).map_err(|error| {
            self.broken.store(true, Ordering::Relaxed);
            io::Error::other(error)
        })?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // The program is gone if this fails, and says why.
        let _ = send(&self.stream, &ToAgent::End);
    }
}

/// The end of a program that is waited for.
pub struct Waiting {
    vm: String,
    thread: JoinHandle<End>,
    broken: Arc<AtomicBool>,
}

impl Waiting {
    /// Waits for it. `written` tells if its input was written.
    ///
    /// # Errors
    /// Its input could not be made, or the program has failed.
    pub fn wait<T>(self, written: Result<T, VmError>) -> Result<T, VmError> {
        let failed = |_| VmError::failed("the copy failed");
        let ended = self.thread.join().map_err(failed)?.result(&self.vm);
        // A program that did not take its input says why.
        match (written, ended) {
            (Err(_), Err(why)) if self.broken.load(Ordering::Relaxed) => Err(why),
            (written, ended) => written.and_then(|written| ended.map(|()| written)),
        }
    }
}

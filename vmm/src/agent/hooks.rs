//! Hooks in a guest around a snapshot: programs that bring what they know to rest, and let it go
//! on.
//!
//! The agent runs a shell with `guest/agent/hooks/run-snapshot-hooks`, as it runs any program that
//! the host asks for. So agents of before there were hooks do, too. Programs run while the shell's
//! standard input is open are at rest; its end has them go on. It also ends in a restored copy,
//! whose stream to the host breaks.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nvvmm_protocol::{Ended, Exec, FailedBecause, FrameError, FromAgent, ToAgent, receive, send};
use nvvmm_snapshot::TimeText;

use super::call::{broken, call, failed};
use crate::control::VmRuntimePaths;
use crate::error::{ErrorKind, VmError};

const SCRIPT: &str = include_str!("../../../guest/agent/hooks/run-snapshot-hooks");
/// Output of hooks that is kept for a message: the last of it.
const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// Hooks that were run before a snapshot, and wait for its end.
#[derive(Debug)]
pub struct SnapshotHooks {
    vm: String,
    stream: UnixStream,
    limit: Duration,
    output: Vec<u8>,
}

impl SnapshotHooks {
    /// Runs the hooks before a snapshot. `None` if the guest has no hooks, or no shell.
    ///
    /// # Errors
    /// A hook failed, or they took longer than `limit`, or the agent does not answer. The hooks
    /// that were run are run for the end of the snapshot, too.
    pub fn before(
        paths: &VmRuntimePaths,
        snapshot: &str,
        limit: Duration,
    ) -> Result<Option<Self>, VmError> {
        let until = Instant::now() + limit;
        let vm = paths.name.clone();
        let stream = call(paths, limit).map_err(without_hooks)?;
        let mut hooks = Self {
            vm,
            stream,
            limit,
            output: Vec::new(),
        };
        let words = ["sh", "-c", SCRIPT, "nvvmm-snapshot-hooks"];
        let request = ToAgent::Exec(Exec {
            command: words.map(|word| word.as_bytes().to_vec()).to_vec(),
            environment: vec![(b"NVVMM_SNAPSHOT".to_vec(), snapshot.as_bytes().to_vec())],
            terminal: None,
        });
        let asked = send(&hooks.stream, &request);
        asked.map_err(|error| without_hooks(broken(&hooks.vm, error)))?;
        let mut said = Vec::new();
        loop {
            match hooks.hear(until)? {
                FromAgent::Data(bytes) => {
                    said.extend(bytes);
                    if said.starts_with(b"ready\n") {
                        return Ok(Some(hooks));
                    }
                    // The script says a word. A guest that says more gets no memory of the host.
                    if said.len() > OUTPUT_BYTES_MAX {
                        return Err(without_hooks(unknown(&hooks.vm)));
                    }
                }
                FromAgent::ErrorData(bytes) => hooks.keep(&bytes),
                FromAgent::Exited(Ended::Code(0)) => return Ok(None),
                FromAgent::Exited(_) => return Err(hooks.refused("a hook of the guest failed")),
                FromAgent::Failed {
                    because: FailedBecause::NotFound,
                    ..
                } => return Ok(None),
                FromAgent::Failed { because, message } => {
                    return Err(without_hooks(failed(&hooks.vm, because, &message)));
                }
                _ => return Err(without_hooks(unknown(&hooks.vm))),
            }
        }
    }

    /// Runs the hooks after the snapshot, or after its failure.
    ///
    /// # Errors
    /// A hook failed, or they took too long, or the guest is not there any more.
    pub fn after(mut self) -> Result<(), VmError> {
        let until = Instant::now() + self.limit;
        let vm = self.vm.clone();
        send(&self.stream, &ToAgent::End).map_err(|error| broken(&vm, error))?;
        loop {
            match self.hear(until)? {
                FromAgent::Data(_) => {}
                FromAgent::ErrorData(bytes) => self.keep(&bytes),
                FromAgent::Exited(Ended::Code(0)) => return Ok(()),
                FromAgent::Exited(_) => {
                    return Err(self.refused("a hook of the guest failed after the snapshot"));
                }
                FromAgent::Failed { because, message } => {
                    return Err(failed(&vm, because, &message));
                }
                _ => return Err(unknown(&vm)),
            }
        }
    }

    /// The next message, if it comes in time.
    fn hear(&mut self, until: Instant) -> Result<FromAgent, VmError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.late());
        }
        let set = self.stream.set_read_timeout(Some(left));
        set.map_err(|error| VmError::io("wait for the guest's hooks", &error))?;
        receive(&self.stream).map_err(|error| match error {
            FrameError::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                self.late()
            }
            error => without_hooks(broken(&self.vm, error)),
        })
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        let over = self.output.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.output.drain(..over);
    }

    fn late(&self) -> VmError {
        let limit = TimeText(self.limit);
        let what = format!("the hooks of the guest took longer than {limit}");
        let error = self.refused(&what);
        error.with_remedy(
            "give them more time with --hooks-timeout, or leave them out with --no-hooks",
        )
    }

    /// The error with the hooks' own words.
    fn refused(&self, what: &str) -> VmError {
        let words = String::from_utf8_lossy(&self.output);
        let message = match words.trim_end() {
            "" => format!("{}: {what}", self.vm),
            words => format!("{}: {what}:\n{words}", self.vm),
        };
        without_hooks(VmError::new(ErrorKind::Refused, message))
    }
}

fn unknown(vm: &str) -> VmError {
    VmError::failed(format!(
        "the agent in {vm} sent an answer to another request"
    ))
}

fn without_hooks(error: VmError) -> VmError {
    error.with_remedy("remove the cause, or leave the hooks out with --no-hooks")
}

#[cfg(test)]
#[path = "hooks_test.rs"]
mod hooks_test;

//! The pusher, as `nvvmm replicate` sees it: another process, for whose answers it waits in parts.

use std::io::{self, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::{ErrorKind, VmError};

use super::message::{Answer, Failure, Order, hear, say};
use crate::args::ReplicateArguments;

/// Interval of looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time that it has for tidying up, before it is killed.
const TIDYING_MAX: Duration = Duration::from_secs(15);

/// Reasons for which an order was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// A signal came.
    Interrupted,
    /// The order failed.
    Failed { error: VmError, kind: Failure },
    /// The process does not speak.
    Lost(VmError),
}

/// The process.
pub(super) struct Process {
    child: Child,
    to: Option<ChildStdin>,
    answers: Receiver<Answer>,
}

impl Process {
    /// Starts it, for a pool.
    pub(super) fn start(arguments: &ReplicateArguments, pool: &Path) -> Result<Self, VmError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("nvvmm").arg("replicate");
        if let Some(key) = &arguments.key {
            command.arg("--key").arg(key);
        }
        command
            .arg(format!("--level={}", arguments.level))
            .arg("--pusher")
            .arg(pool)
            .arg("--")
            .arg(&arguments.vm)
            .arg(arguments.url.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for this process, which ends the other one in order.
            .process_group(0)
            .spawn()
            .map_err(|e| failed("start", &e))?;
        let no_pipe = || failed("start", &io::ErrorKind::BrokenPipe.into());
        let to = child.stdin.take().ok_or_else(no_pipe)?;
        let from = child.stdout.take().ok_or_else(no_pipe)?;
        let (give, answers) = channel();
        let hears = move || {
            let mut lines = BufReader::new(from);
            while let Ok(Some(answer)) = hear(&mut lines) {
                if give.send(answer).is_err() {
                    return;
                }
            }
        };
        let spawned = thread::Builder::new().name("pusher".into()).spawn(hears);
        spawned.map_err(|e| failed("hear", &e))?;
        Ok(Self {
            child,
            to: Some(to),
            answers,
        })
    }

    /// Has it carry out an order, and waits for the answer.
    pub(super) fn carry_out(
        &mut self,
        order: &Order,
        interrupted: &AtomicBool,
        while_waiting: &mut dyn FnMut(),
    ) -> Result<Answer, Fault> {
        let to = self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe.into());
        let said = to.and_then(|to| say(to, order));
        said.map_err(|e| Fault::Lost(failed("speak to", &e)))?;
        self.answer(interrupted, while_waiting)
    }

    /// Waits for its next answer.
    pub(super) fn answer(
        &mut self,
        interrupted: &AtomicBool,
        while_waiting: &mut dyn FnMut(),
    ) -> Result<Answer, Fault> {
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return Err(Fault::Interrupted);
            }
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(Answer::Failed { error, kind }) => return Err(Fault::Failed { error, kind }),
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => while_waiting(),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Fault::Lost(VmError::new(
                        ErrorKind::Failed,
                        "the process that pushes has ended",
                    )));
                }
            }
        }
    }
}

impl Drop for Process {
    /// Ends it. A push under way is given up.
    fn drop(&mut self) {
        self.to = None;
        let until = Instant::now() + TIDYING_MAX;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LOOK_EVERY / 10),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            tracing::warn!(%error, "the process that pushes does not end");
        }
    }
}

fn failed(what: &str, error: &io::Error) -> VmError {
    VmError::io(format_args!("{what} the process that pushes"), error)
}

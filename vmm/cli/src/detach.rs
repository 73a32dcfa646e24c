//! `--detach`: the command starts itself once more as the VM process, in a session of its own, and
//! waits until that one reports on its stdout that the guest runs or why it does not.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use nvvmm::VmError;
use nvvmm::control::{VmRuntimePaths, VmStatus};
use serde::{Deserialize, Serialize};

use super::log::{self, LOG_BYTES_MAX, LogFile};

/// Variable that marks the process that becomes the VM process.
const CHILD_MARK: &str = "NVVMM_DETACHED_CHILD";

/// The one line that the VM process reports to the waiting command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum Report {
    Ready { status: Box<VmStatus> },
    Failed { error: VmError },
}

/// Tells if this process is the VM process that a waiting command started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD_MARK).is_some()
}

/// Starts the VM process and waits for its report.
pub fn start_and_wait() -> Result<VmStatus, VmError> {
    let failed = |e: io::Error| VmError::io("start the VM process", &e);
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(CHILD_MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(failed)?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Ready { status }) => Ok(*status),
        Ok(Report::Failed { error }) => {
            child.wait().map_err(failed)?;
            Err(error)
        }
        Err(_) => Err(ended_silently(child.wait().map_err(failed)?)),
    }
}

fn ended_silently(status: ExitStatus) -> VmError {
    let how = match status.signal() {
        Some(signal) => format!("was killed by signal {signal}"),
        None => format!("ended with exit code {}", status.code().unwrap_or_default()),
    };
    VmError::failed(format!("the VM process {how} before its guest ran"))
        .with_remedy("run it without --detach, with -vv, to see more")
}

/// Makes this process independent of the terminal that it was started from, with its log in the
/// log file, and stderr, too: a panic writes there. Stdout stays the way to the waiting command.
pub fn become_background(paths: &VmRuntimePaths) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("log to {}", paths.log.display()), &e);
    setsid().map_err(|e| VmError::io("start a session for the VM process", &e.into()))?;
    let file = LogFile::open(&paths.log, &paths.log_before, LOG_BYTES_MAX).map_err(failed)?;
    dup2_stderr(&file).map_err(|e| failed(e.into()))?;
    log::go_to(file);
    Ok(())
}

/// Tells the waiting command that the guest runs, and lets it go: stdout becomes the log.
pub fn report_ready(status: &VmStatus) {
    report(&Report::Ready {
        status: Box::new(status.clone()),
    });
    if let Err(e) = dup2_stdout(io::stderr()) {
        tracing::warn!("stdout cannot be turned to the log: {e}");
    }
}

/// Tells the waiting command that the VM could not be started.
pub fn report_failed(error: &VmError) {
    report(&Report::Failed {
        error: error.clone(),
    });
}

fn report(report: &Report) {
    let written = serde_json::to_vec(report)
        .map_err(io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            let mut out = io::stdout().lock();
            out.write_all(&line).and_then(|()| out.flush())
        });
    // The command that waited was interrupted; the VM lives on under its name.
    if let Err(e) = written {
        tracing::warn!("nobody waits for the report of this VM process: {e}");
    }
}

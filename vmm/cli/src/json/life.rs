//! VMs that have ended.

use nvvmm::control::life::Life;
use serde::Serialize;

use super::vm::Vm;
use super::{rfc3339, word};

/// VM of `ps --all`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Listed {
    /// VM that runs.
    Running(Box<Vm>),
    /// VM that has ended.
    Ended(Box<Past>),
}

/// VM that has ended, as `ps --all` and `wait` print it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Past {
    /// Name of the VM.
    vm: String,
    /// State.
    #[cfg_attr(test, schemars(extend("const" = "ended")))]
    state: &'static str,
    /// Reason for the end.
    #[cfg_attr(
        test,
        schemars(extend("enum" = [
            "powered-off", "rebooted", "triple-fault", "stopped", "snapshotted", "killed", "failed"
        ]))
    )]
    end: String,
    /// The end in words, if there is more to say.
    text: Option<String>,
    /// Time at which the VM was started, in UTC (RFC 3339).
    started: String,
    /// The same time in nanoseconds since 1970, as digits.
    started_unix_ns: String,
    /// Time of the end, in UTC (RFC 3339). Null if nobody saw it.
    ended: Option<String>,
    /// The same time in nanoseconds since 1970, as digits.
    ended_unix_ns: Option<String>,
    /// Number of reboots of the guest.
    reboot_count: u64,
    /// Path of the pool.
    pool: Option<String>,
    /// Name of the snapshot that it was restored from. Null if it was booted.
    snapshot: Option<String>,
    /// Arguments of the command that started it, if they are kept.
    arguments: Option<Vec<String>>,
    /// Working directory of that command.
    directory: Option<String>,
}

impl Past {
    /// JSON of a record.
    pub fn of(life: &Life) -> Self {
        let Life { start, state } = life;
        Self {
            vm: start.vm.clone(),
            state: "ended",
            end: word(&life.end()),
            text: state.text.clone(),
            started: rfc3339(start.started_unix_ns),
            started_unix_ns: start.started_unix_ns.to_string(),
            ended: state.ended_unix_ns.map(rfc3339),
            ended_unix_ns: state.ended_unix_ns.map(|ns| ns.to_string()),
            reboot_count: state.reboot_count,
            pool: start.pool.clone(),
            snapshot: start.snapshot.clone(),
            arguments: start.arguments.clone(),
            directory: start.directory.clone(),
        }
    }
}

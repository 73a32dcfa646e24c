//! Output of `--json`: a struct for each object that a command prints.
//!
//! These structs are apart from those that travel on control sockets or are kept in files, so that
//! either can change alone. docs/formats/json.md has the rules: a member is always there, numbers
//! are whole, units are in names. docs/formats/json has a JSON Schema for each command, made of
//! these structs and their docstrings by a test ([`schema_test`]), which holds the rules, too.

pub mod bench;
pub mod disk;
pub mod doctor;
pub mod inspect;
pub mod memory;
pub mod moving;
pub mod pool;
pub mod process;
pub mod remote;
pub mod ring;
#[cfg(test)]
mod schema_test;
pub mod snapshot;
pub mod stats;
pub mod vm;

use std::path::Path;
use std::time::{Duration, SystemTime};

use nvvmm::VmError;
use nvvmm::checkpoint::report::PhaseTime;
use nvvmm_snapshot::BLOCK_SIZE_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Part of an operation, with its time.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Phase {
    /// Name of the phase.
    phase: String,
    /// Time that it took.
    took_us: u64,
}

impl Phase {
    fn all(phases: &[PhaseTime]) -> Vec<Self> {
        let phase = |timed: &PhaseTime| Self {
            phase: timed.phase.clone(),
            took_us: whole_us(timed.us),
        };
        phases.iter().map(phase).collect()
    }
}

/// Error, as it is printed for people, too.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failure {
    /// Kind of the error. Each kind has an exit code.
    kind: String,
    /// Cause.
    message: String,
    /// Remedy, if there is one.
    remedy: Option<String>,
}

impl Failure {
    /// JSON of an error.
    pub fn of(error: &VmError) -> Self {
        Self {
            kind: word(&error.kind),
            message: error.message.clone(),
            remedy: error.remedy.clone(),
        }
    }
}

/// Rounds microseconds to whole ones.
fn whole_us(us: f64) -> u64 {
    us.round() as u64
}

/// Size of so many blocks, frames or pages.
fn blocks_bytes(blocks: impl Into<u64>) -> u64 {
    blocks.into().saturating_mul(BLOCK_SIZE_BYTES)
}

/// Path as text. Bytes that are no UTF-8 are replaced: JSON has no place for them.
fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Moment as RFC 3339 text in UTC.
fn rfc3339(unix_ns: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_nanos(at).to_string()
}

/// The one word that stands for `value` in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

//! Orders of `nvvmm replicate` to its pusher, and answers: one JSON document a line.

use std::io::{self, BufRead, Read, Write};

use nvvmm::VmError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line. Each replica of a store takes some 100 bytes.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Order to the pusher. It answers each, and its first answer comes without one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Store this snapshot of the pool.
    Push {
        /// Its name.
        snapshot: String,
    },
    /// Remove these replicas from the store, if they are there.
    Remove {
        /// Their names.
        snapshots: Vec<String>,
    },
    /// Delete what no snapshot of the store needs.
    Collect,
}

/// Answer of the pusher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The store is open.
    Opened {
        /// The store is encrypted.
        encrypted: bool,
        /// The VM's replicas in it.
        replicas: Vec<Replica>,
    },
    /// The snapshot is in the store.
    Pushed(Sums),
    /// The order was carried out.
    Done,
    /// The order was not carried out.
    Failed {
        /// Cause and remedy.
        error: VmError,
        /// The kind, as far as `nvvmm replicate` acts differently.
        kind: Failure,
    },
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    /// The same may succeed later.
    Passing,
    /// The store has something else of that name.
    NameTaken,
    /// The same fails each time.
    Final,
}

/// A replica in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) identity: String,
}

/// Sums of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Bytes of chunks that were read.
    pub(super) read_bytes: u64,
    /// Bytes of memory in pieces that the store lacked.
    pub(super) new_bytes: u64,
    /// Bytes of objects that were sent.
    pub(super) sent_bytes: u64,
    /// Requests to the store.
    pub(super) requests: u64,
}

/// Writes a line.
pub(super) fn say(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Reads a line; none at the end.
pub(super) fn hear<T: DeserializeOwned>(lines: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.is_empty() {
        true => Ok(None),
        false => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

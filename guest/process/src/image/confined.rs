//! Confinement of a process, since version 4.

use serde::{Deserialize, Serialize};

/// The confinement of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confined {
    /// Its root directory.
    pub root: Vec<u8>,
    /// Filters of its system calls (seccomp), the oldest first.
    pub filters: Vec<Filter>,
}

/// A filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its program for BPF: instructions of 8 bytes.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub logs: bool,
}

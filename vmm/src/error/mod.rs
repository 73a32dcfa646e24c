//! The error that travels: from a VM process through its control socket, or from the start of a VM,
//! to the user.

mod pool;

pub(crate) use pool::MAKE_SPACE;

use serde::{Deserialize, Serialize};

/// Kind of a failure. Each kind has its own exit code on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A command that makes no sense as given.
    Usage,
    /// No VM, snapshot, pool or file of that name.
    NotFound,
    /// A name that is taken, a thing that is busy, a state that does not allow the request.
    Refused,
    /// The pool, or the medium behind it, has no space left for this.
    PoolFull,
    /// The pool is damaged, is no pool, or was made by an incompatible version.
    PoolDamaged,
    /// The host lacks something: /dev/kvm, permission for userfaultfd, a newer kernel, CPU
    /// features.
    HostLacks,
    /// Anything else, also kinds that a newer version may send.
    Failed,
}

impl From<String> for ErrorKind {
    fn from(name: String) -> Self {
        match name.as_str() {
            "usage" => Self::Usage,
            "not_found" => Self::NotFound,
            "refused" => Self::Refused,
            "pool_full" => Self::PoolFull,
            "pool_damaged" => Self::PoolDamaged,
            "host_lacks" => Self::HostLacks,
            _ => Self::Failed,
        }
    }
}

/// A failure with its cause and, when there is one, what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct VmError {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// The cause, one sentence without a full stop.
    pub message: String,
    /// Remedy for the user, one sentence without a full stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl VmError {
    /// An error of `kind` without a remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: without_os_numbers(message.into()),
            remedy: None,
        }
    }

    /// An error of no special kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// An error of the kind that fits `source`, whose text follows `op` ("cannot <op>: ...").
    pub fn io(op: impl std::fmt::Display, source: &std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, format!("cannot {op}: {source}"))
    }

    /// Adds a remedy to the error.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// `text` without the numbers that the standard library puts behind the system's words: `Permission
/// denied (os error 13)`.
pub fn without_os_numbers(text: String) -> String {
    const MARK: &str = " (os error ";
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(MARK) {
        plain.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match after[digits..].strip_prefix(')') {
            Some(behind) if digits > 0 => rest = behind,
            _ => {
                plain.push_str(MARK);
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;

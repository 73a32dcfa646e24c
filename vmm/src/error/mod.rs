//! The error that travels: from a VM process through its control socket, or from the start of a VM,
//! to the user.

mod pool;

use std::io;
use std::path::Path;

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
    /// This user may not use the pool, the file, the directory or the process.
    Denied,
    /// Anything else, also kinds that a newer version may send.
    Failed,
}

impl ErrorKind {
    /// The exit code of the command line for errors of this kind. docs/using/operations.md has the
    /// table.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::PoolFull => 5,
            Self::PoolDamaged => 6,
            Self::HostLacks => 7,
            Self::Denied => 8,
        }
    }

    /// The kind of an error of the system about a file, a directory or a process.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => Self::Refused,
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Self::Usage,
            _ => Self::Failed,
        }
    }
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
            "denied" => Self::Denied,
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
            message: message.into(),
            remedy: None,
        }
    }

    /// An error of no special kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// An error of the kind that fits `source`, whose text follows `op` ("cannot <op>: ...").
    pub fn io(op: impl std::fmt::Display, source: &io::Error) -> Self {
        Self::new(ErrorKind::of_io(source), format!("cannot {op}: {source}"))
    }

    /// One error that names each of these with its remedy, a line for each; `None` for none. The
    /// host lacks something if that is all that failed. Otherwise the first other failure decides
    /// the kind.
    pub fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() <= 1 {
            return errors.pop();
        }
        let other = { errors.iter() }.find(|error| error.kind != ErrorKind::HostLacks);
        let kind = other.map_or(ErrorKind::HostLacks, |error| error.kind);
        let mut message = format!("{} things keep a VM from running here", errors.len());
        let mut remedies: Vec<&str> = Vec::new();
        for error in &errors {
            message.push('\n');
            message.push_str(&error.message);
            let remedy = error.remedy.as_deref();
            remedies.extend(remedy.filter(|remedy| !remedies.contains(remedy)));
        }
        remedies.push("'nvvmm doctor' shows all");
        Some(Self::new(kind, message).with_remedy(remedies.join("\n")))
    }

    /// Adds a remedy to the error.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Checks that a path is text. Others cannot be told: the state of a VM, its snapshots and all
/// reports are JSON.
///
/// # Errors
/// [`ErrorKind::Usage`] with the path, in which such bytes are escaped.
pub fn check_path_is_text(what: &str, path: &Path) -> Result<(), VmError> {
    if path.to_str().is_some() {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Usage,
        format!("the path of {what}, {path:?}, has bytes that are not UTF-8"),
    )
    .with_remedy("rename the file or directory, or give a symbolic link to it"))
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;

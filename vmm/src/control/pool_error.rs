//! Errors of the pool as errors for the user.

use nvvmm_snapshot::Error;

use super::error::{ControlError, ErrorKind};

impl From<Error> for ControlError {
    fn from(error: Error) -> Self {
        Self::new(kind_of(&error), error.to_string())
    }
}

/// The kind, and with it the exit code, of a pool error.
fn kind_of(error: &Error) -> ErrorKind {
    match error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::NameTaken { .. }
        | Error::FixedSize { .. }
        | Error::Busy { .. }
        | Error::Exists { .. }
        | Error::HoldsPool { .. }
        | Error::InUse { .. }
        | Error::NotDurable { .. }
        | Error::TooManyHolders { .. }
        | Error::TooManyPins { .. }
        | Error::TooManySnapshots { .. } => ErrorKind::Refused,
        Error::PoolFull { .. } | Error::NoSpaceOnMedium { .. } => ErrorKind::PoolFull,
        Error::NotAPool { .. } | Error::Version { .. } | Error::Damaged { .. } => ErrorKind::PoolDamaged,
        Error::InvalidName { .. } | Error::InvalidSize { .. } => ErrorKind::Usage,
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    }
}

#[cfg(test)]
#[path = "pool_error_test.rs"]
mod pool_error_test;

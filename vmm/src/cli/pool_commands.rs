//! `nvvmm pool create`, `status` and `check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::control::ControlError;

/// Makes a pool.
pub fn make(path: &Path, size_bytes: u64, overcommit: bool) -> Result<(), ControlError> {
    let _ = (path, size_bytes, overcommit);
    Err(ControlError::failed("this build has no pools yet"))
}

/// `nvvmm pool create`.
pub fn create(path: &Path, size_bytes: u64, overcommit: bool) -> Result<(), ControlError> {
    make(path, size_bytes, overcommit)
}

/// `nvvmm pool status`.
pub fn status(path: Option<PathBuf>, json: bool) -> Result<(), ControlError> {
    let _ = (path, json);
    Err(ControlError::failed("this build has no pools yet"))
}

/// `nvvmm pool check`.
pub fn check(path: Option<PathBuf>, json: bool) -> Result<ExitCode, ControlError> {
    let _ = (path, json);
    Err(ControlError::failed("this build has no pools yet"))
}

//! The limit of a file's size (`ulimit -f`), checked before anything is made or started.

use std::path::Path;

use nvvmm::sys::limits::file_size_max_bytes;
use nvvmm::{ErrorKind, VmError};

use super::output;

/// Refuses a file that is, or is to be, larger than this process may write.
///
/// # Errors
/// [`ErrorKind::Refused`].
pub fn check(what: &str, path: &Path, size_bytes: u64) -> Result<(), VmError> {
    let limit = file_size_max_bytes().map_err(|e| VmError::io("read the limit of a file", &e))?;
    refuse_above(limit, what, path, size_bytes)
}

/// Does the same for a file that is there. A device has no size, and no limit.
pub fn check_file(what: &str, path: &Path) -> Result<(), VmError> {
    match path.metadata() {
        Ok(found) if found.is_file() => check(what, path, found.len()),
        // Whoever opens it says what is wrong.
        _ => Ok(()),
    }
}

fn refuse_above(
    limit: Option<u64>,
    what: &str,
    path: &Path,
    size_bytes: u64,
) -> Result<(), VmError> {
    let Some(limit) = limit.filter(|limit| size_bytes > *limit) else {
        return Ok(());
    };
    Err(VmError::new(
        ErrorKind::Refused,
        format!(
            "the {what} {} has {}, and files of this shell may have {} at most (ulimit -f)",
            path.display(),
            output::size(size_bytes),
            output::size(limit)
        ),
    )
    .with_remedy("raise the limit with 'ulimit -f unlimited', or in /etc/security/limits.conf"))
}

#[cfg(test)]
#[path = "file_size_test.rs"]
mod file_size_test;

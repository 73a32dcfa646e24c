//! Paths of files that the user gives.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nvvmm::error::check_path_is_text;
use nvvmm::{ErrorKind, VmError};

/// `path` made absolute. It must be text then, also the working directory.
pub fn absolute(what: &str, path: &Path) -> Result<PathBuf, VmError> {
    let failed = |e| VmError::io(format_args!("find {what} {}", path.display()), &e);
    let path = std::path::absolute(path).map_err(failed)?;
    check_path_is_text(what, &path)?;
    Ok(path)
}

/// `path` made absolute, when it can be read. Does not wait for the other end of a pipe.
pub fn readable(what: &str, path: &Path) -> Result<PathBuf, VmError> {
    let failed =
        |e: std::io::Error| VmError::io(format_args!("read the {what} {}", path.display()), &e);
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(VmError::new(
            ErrorKind::Usage,
            format!("the {what} {} is a directory", path.display()),
        ));
    }
    absolute(&format!("the {what}"), path)
}

//! Files that are not whole yet.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nvvmm::{ErrorKind, VmError};

use super::confine::Helper;

/// Refuses to write a file that exists, unless the user said that it may be replaced. Devices and
/// pipes are written to, not replaced.
///
/// # Errors
/// [`ErrorKind::Refused`]: a file, or a link to something, is at `path`.
pub fn check_free(path: &Path, force: bool) -> Result<(), VmError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let is_replaced = found.is_file() || (found.is_symlink() && (!path.exists() || path.is_file()));
    if force || !is_replaced {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Refused,
        format!("the file {} exists", path.display()),
    )
    .with_remedy("give another path, or replace the file with --force"))
}

/// Gives `from` the name `to`. Without `force` nothing is replaced, also if it has appeared since
/// [`check_free`] looked.
fn rename(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if force {
        return fs::rename(from, to);
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // A file system without links.
        Err(_) => fs::rename(from, to),
    }
}

/// A file that goes away unless it is renamed.
pub struct Partial {
    path: PathBuf,
    /// The file, open for reading and writing.
    pub file: File,
}

impl Partial {
    /// Creates a file in the directory of `target`, for its owner alone.
    pub fn beside(target: &Path) -> io::Result<Self> {
        Self::with_mode(target, 0o600)
    }

    /// Creates a file in the directory of `target`, with these permissions as far as the umask
    /// allows them. Opens nothing that is there already, and follows no link.
    pub fn with_mode(target: &Path, mode: u32) -> io::Result<Self> {
        let mut name = target
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_owned();
        name.push(format!(".nvvmm-{}", std::process::id()));
        let path = target.with_file_name(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        Ok(Self { path, file })
    }

    /// Takes the name that it was made for. With `force` it replaces a file of that name.
    pub fn become_whole(&self, target: &Path, force: bool) -> io::Result<()> {
        rename(&self.path, target, force)
    }
}

/// A file that is not whole yet, of a process that is about to be confined. A helper gives it its
/// name, or removes it when the process ends without that.
pub struct ConfinedPartial {
    /// The file, open for reading and writing.
    pub file: File,
    helper: Helper,
}

impl ConfinedPartial {
    /// Creates a file in the directory of `target`, for its owner alone. With `force` it will
    /// replace a file of that name.
    pub fn beside(target: &Path, force: bool) -> io::Result<Self> {
        let partial = Partial::beside(target)?;
        let file = partial.file.try_clone()?;
        let (from, to) = (partial.path.clone(), target.to_owned());
        let stale = partial.path.clone();
        let remove = move || {
            let _ = fs::remove_file(&stale);
        };
        let helper = Helper::new(
            move || {
                rename(&from, &to, force)
                    .map(|()| 0)
                    .inspect_err(|_| drop(fs::remove_file(&from)))
            },
            remove,
        )?;
        // The helper has it now.
        std::mem::forget(partial);
        Ok(Self { file, helper })
    }

    /// Takes the name that it was made for.
    pub fn become_whole(self) -> io::Result<()> {
        self.helper.carry_out().map(drop)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there when it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "partial_test.rs"]
mod partial_test;

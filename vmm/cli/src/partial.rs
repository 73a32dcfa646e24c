//! Files that are not whole yet.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::confine::Helper;

/// A file that goes away unless it is renamed.
pub struct Partial {
    path: PathBuf,
    /// The file, open for writing.
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
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        Ok(Self { path, file })
    }

    /// Takes the name that it was made for.
    pub fn become_whole(&self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)
    }
}

/// A file that is not whole yet, of a process that is about to be confined. A helper gives it its
/// name, or removes it when the process ends without that.
pub struct ConfinedPartial {
    /// The file, open for writing.
    pub file: File,
    helper: Helper,
}

impl ConfinedPartial {
    /// Creates a file in the directory of `target`, for its owner alone.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let partial = Partial::beside(target)?;
        let file = partial.file.try_clone()?;
        let (from, to) = (partial.path.clone(), target.to_owned());
        let stale = partial.path.clone();
        let remove = move || {
            let _ = fs::remove_file(&stale);
        };
        let helper = Helper::new(
            move || {
                fs::rename(&from, &to)
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

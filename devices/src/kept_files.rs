//! Files that are opened ahead and kept open, for a process that confines itself before it builds
//! its machine: later it may open no file.
//!
//! A program that keeps none opens each file by its path, as if this module were not there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static KEPT: Mutex<BTreeMap<(PathBuf, bool), File>> = Mutex::new(BTreeMap::new());

/// Keeps an opened file until the process ends. [`open`] with the same arguments gives this file
/// from then on, whatever the path names by then.
pub fn keep(path: &Path, writable: bool, file: File) {
    kept().insert((path.to_owned(), writable), file);
}

/// Opens the file at `path`, whichever is kept.
///
/// # Errors
/// What open(2) says.
pub fn open_new(path: &Path, writable: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(writable).open(path)
}

/// Opens a file: the one that is kept, at its beginning, or else the one at `path`.
///
/// # Errors
/// What open(2) says.
pub fn open(path: &Path, writable: bool) -> io::Result<File> {
    if let Some(file) = kept().get(&(path.to_owned(), writable)) {
        let mut file = file.try_clone()?;
        file.rewind()?;
        return Ok(file);
    }
    open_new(path, writable)
}

/// True for a file that is kept.
pub fn is_kept(path: &Path, writable: bool) -> bool {
    kept().contains_key(&(path.to_owned(), writable))
}

fn kept() -> std::sync::MutexGuard<'static, BTreeMap<(PathBuf, bool), File>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "kept_files_test.rs"]
mod kept_files_test;

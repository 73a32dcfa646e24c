//! Places for new pools. A path is looked at before anything is opened or made there.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::region::unfit_kind;

/// Directory of devices. A file that is made in it is no device, and is gone after a restart.
const DEVICES: &str = "/dev";
/// Directory of shared memory. It may be a part of the file system of devices.
const SHARED_MEMORY: &str = "/dev/shm";

/// Checks that a pool may be made at `path`: a DAX device is there, or a file, or nothing in a
/// directory that can have a pool's file.
///
/// # Errors
/// [`Error::NoDevice`], [`Error::NoDirectory`], [`Error::NoPlace`], [`Error::Io`].
pub(super) fn check(path: &Path) -> Result<()> {
    let no_place = |what: String| {
        Err(Error::NoPlace {
            path: path.to_owned(),
            what,
        })
    };
    if let Ok(found) = path.metadata() {
        return match unfit_kind(&found) {
            Some(kind) => no_place(format!("it is {kind}")),
            None => Ok(()),
        };
    }
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return no_place("it names no file".to_owned());
    }
    let directory = directory_of(path);
    match directory.metadata() {
        Ok(found) if !found.is_dir() => {
            no_place(format!("{} is no directory", directory.display()))
        }
        Ok(_) if is_among_devices(&directory) => Err(Error::NoDevice {
            path: path.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && directory.starts_with(DEVICES) => {
            Err(Error::NoDevice {
                path: path.to_owned(),
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::NoDirectory { path: directory })
        }
        Err(error) => Err(Error::io(format!("looking at {}", directory.display()))(
            error,
        )),
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// True for a directory of the file system of devices. Others can be mounted below it: shared
/// memory, huge pages.
fn is_among_devices(directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else {
        return false;
    };
    let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
    directory.starts_with(DEVICES)
        && !directory.starts_with(SHARED_MEMORY)
        && device(&directory) == device(Path::new(DEVICES))
}

#[cfg(test)]
#[path = "place_test.rs"]
mod place_test;

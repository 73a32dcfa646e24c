//! `nvvmm cp --recursive`: a directory into a guest, or out of one, as an archive of `tar` in the
//! guest.
//!
//! A guest decides what is in the archive that it sends, and is not trusted. `unpack` takes files
//! into a new directory, below which nothing is that the guest could lead it through.

mod pack;
mod program;
mod unpack;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nvvmm::{ErrorKind, VmError};

use self::program::Program;
use super::interruption::ends_on_signal;

/// A guest that a directory goes to, or comes from.
pub struct Guest<'a> {
    /// Name of its VM.
    pub vm: &'a str,
    /// Makes a stream to its agent.
    pub connect: &'a dyn Fn() -> Result<UnixStream, VmError>,
}

/// Tells what is at the path `$1` in the guest.
const LOOK: &str = "if [ -d \"$1\" ]; then echo directory; \
                    elif [ -e \"$1\" ] || [ -L \"$1\" ]; then echo file; fi";
/// Sends what is in the directory `$1`.
const PACK: &str = "cd -- \"$1\" && exec tar -c -f - .";
/// Takes an archive in the directory `$1`.
const UNPACK: &str = "cd -- \"$1\" && exec tar -x -f -";

/// Something at a path in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    File,
    Directory,
}

impl Guest<'_> {
    fn start(&self, script: &str, path: &Path) -> Result<Program, VmError> {
        let words = ["sh", "-c", script, "sh"].map(OsStr::new);
        let command = [&words[..], &[path.as_os_str()]].concat();
        Program::start(self.vm, (self.connect)()?, &command)
    }

    fn look(&self, path: &Path) -> Result<Found, VmError> {
        let said = self.start(LOOK, path)?.output()?;
        Ok(match said.trim_ascii() {
            b"directory" => Found::Directory,
            b"" => Found::Nothing,
            _ => Found::File,
        })
    }

    /// Tells if a path in the guest is a directory.
    pub fn is_directory(&self, path: &Path) -> Result<bool, VmError> {
        Ok(self.look(path)? == Found::Directory)
    }

    /// Copies the directory `from` of this host to `path`: into a directory that is there, or as a
    /// new one of that name.
    pub fn take(&self, from: &Path, path: &Path) -> Result<(), VmError> {
        let failed = |e| VmError::io(format_args!("read {}", from.display()), &e);
        let real = from.canonicalize().map_err(failed)?;
        let (parent, top) = match self.look(path)? {
            Found::Directory => (path, real.file_name()),
            Found::Nothing => (parent_of(path), path.file_name()),
            Found::File => {
                return Err(VmError::new(
                    ErrorKind::Refused,
                    format!("{}: {} is not a directory", self.vm, path.display()),
                ));
            }
        };
        let top = top.ok_or_else(|| no_name(path))?;
        let (input, end) = self.start(UNPACK, parent)?.feed()?;
        let packed = pack::directory(&real, Path::new(top), input);
        complete(&end.wait(packed)?)
    }

    /// Copies the directory `path` to `to` on this host: into a directory that is there, or as a
    /// new one of that name.
    pub fn give(&self, path: &Path, to: &Path) -> Result<(), VmError> {
        let target = match to.is_dir() {
            true => to.join(path.file_name().ok_or_else(|| no_name(path))?),
            false => to.to_owned(),
        };
        if fs::symlink_metadata(&target).is_ok() {
            return Err(
                VmError::new(ErrorKind::Refused, format!("{} exists", target.display()))
                    .with_remedy("give another path, or remove it first"),
            );
        }
        let interrupted = ends_on_signal()?;
        let mut archive = self.start(PACK, path)?.read_from(&interrupted)?;
        let tree = NewTree::beside(&target)?;
        let unpacked = unpack::archive(&mut archive, &tree.path);
        if interrupted.load(Ordering::Relaxed) {
            return Err(VmError::failed("interrupted: nothing was copied"));
        }
        // A program that has failed says why there is no more of the archive.
        if unpacked.is_ok() || archive.has_ended() {
            archive.end()?;
        }
        let left_out = unpacked?;
        tree.become_whole(&target)?;
        complete(&left_out)
    }
}

fn parent_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

fn no_name(path: &Path) -> VmError {
    VmError::new(
        ErrorKind::Usage,
        format!(
            "{} is not the path of a directory with a name",
            path.display()
        ),
    )
}

/// Error of a copy without some files: sockets, devices and the like.
fn complete(left_out: &[PathBuf]) -> Result<(), VmError> {
    let Some(first) = left_out.first() else {
        return Ok(());
    };
    let others = match left_out.len() - 1 {
        0 => String::new(),
        1 => " and another one".to_owned(),
        count => format!(" and {count} others"),
    };
    Err(VmError::failed(format!(
        "all was copied but {}{others}: only files, directories and links can be copied",
        first.display()
    )))
}

/// A directory that goes away unless it gets its name.
struct NewTree {
    path: PathBuf,
}

impl NewTree {
    fn beside(target: &Path) -> Result<Self, VmError> {
        let failed = |e| VmError::io(format_args!("write {}", target.display()), &e);
        let mut name = target
            .file_name()
            .ok_or_else(|| no_name(target))?
            .to_owned();
        name.push(format!(".nvvmm-{}", std::process::id()));
        let path = target.with_file_name(name);
        fs::create_dir(&path).map_err(failed)?;
        Ok(Self { path })
    }

    fn become_whole(self, target: &Path) -> Result<(), VmError> {
        fs::rename(&self.path, target)
            .map_err(|e| VmError::io(format_args!("write {}", target.display()), &e))
    }
}

impl Drop for NewTree {
    fn drop(&mut self) {
        // It is not there when it has got its name. Links are removed, not followed.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
#[path = "cp_tree_test.rs"]
mod cp_tree_test;

//! A directory of this host as an archive.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nvvmm::VmError;
use tar::{Builder, EntryType, Header};

use crate::cp::MODE_BITS;

/// Writes what is in `directory` as an archive whose top has the name `top`. Links stay links.
/// Gives the files that an archive cannot have.
///
/// # Errors
/// A file cannot be read, or the archive cannot be written.
pub fn directory(directory: &Path, top: &Path, out: impl Write) -> Result<Vec<PathBuf>, VmError> {
    let mut archive = Builder::new(out);
    let mut left_out = Vec::new();
    let mut waiting = vec![(directory.to_owned(), top.to_owned())];
    while let Some((from, name)) = waiting.pop() {
        let failed = |e: io::Error| VmError::io(format_args!("copy {}", from.display()), &e);
        let found = fs::symlink_metadata(&from).map_err(failed)?;
        let mut header = Header::new_gnu();
        header.set_mode(found.permissions().mode() & MODE_BITS);
        header.set_mtime(mtime_of(&found));
        header.set_size(0);
        if found.is_dir() {
            header.set_entry_type(EntryType::Directory);
            let added = archive.append_data(&mut header, &name, io::empty());
            added.map_err(failed)?;
            for inner in fs::read_dir(&from).map_err(failed)? {
                let inner = inner.map_err(failed)?.file_name();
                waiting.push((from.join(&inner), name.join(&inner)));
            }
        } else if found.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(&from).map_err(failed)?;
            let added = archive.append_link(&mut header, &name, target);
            added.map_err(failed)?;
        } else if found.is_file() {
            let file = fs::File::open(&from).map_err(failed)?;
            header.set_size(found.len());
            // A file that grows meanwhile ends where it ended; one that shrinks is an error.
            let content = Exactly::of(file, found.len());
            let added = archive.append_data(&mut header, &name, content);
            added.map_err(failed)?;
        } else {
            left_out.push(from);
        }
    }
    let failed = |e: io::Error| VmError::io("send the files", &e);
    let mut out = archive.into_inner().map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(left_out)
}

fn mtime_of(found: &fs::Metadata) -> u64 {
    let since = found.modified().ok();
    let since = since.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The first bytes of a file, as many as the archive was told.
struct Exactly<R> {
    file: R,
    left_bytes: u64,
}

impl<R: io::Read> Exactly<R> {
    fn of(file: R, left_bytes: u64) -> Self {
        Self { file, left_bytes }
    }
}

impl<R: io::Read> io::Read for Exactly<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left_bytes)
            .unwrap_or(usize::MAX)
            .min(into.len());
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut into[..most])? {
            0 => Err(io::Error::other("the file was cut while it was read")),
            count => {
                self.left_bytes -= count as u64;
                Ok(count)
            }
        }
    }
}

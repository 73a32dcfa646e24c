//! An archive that a guest sends, as files of this host.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nvvmm::VmError;
use tar::{Archive, Entry, EntryType};

use crate::cp::MODE_BITS;

/// Permissions that the owner of a directory has in any case, so that it can be filled.
const OWNER: u32 = 0o700;

/// Makes the files of an archive below `root`, an empty directory that nobody else writes to. Gives
/// those that were left out: what is neither file, directory nor link.
///
/// The guest chooses names, content, permissions as far as the umask allows them, and where
/// symbolic links point. It gets nothing outside of `root`: names lead down only, each file is made
/// anew, and symbolic links are made last.
///
/// # Errors
/// The archive is damaged or has a name that leads elsewhere; a file cannot be written.
pub fn archive(from: &mut impl Read, root: &Path) -> Result<Vec<PathBuf>, VmError> {
    let damaged = |e: io::Error| VmError::failed(format!("the guest's archive: {e}"));
    let mut left_out = Vec::new();
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut archive = Archive::new(&mut *from);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = below(&entry.path().map_err(damaged)?)?;
        let path = root.join(&name);
        let failed = |e: io::Error| VmError::io(format_args!("write {}", name.display()), &e);
        let mode = entry.header().mode().unwrap_or(0) & MODE_BITS;
        match entry.header().entry_type() {
            EntryType::Directory => make_directory(&path, mode).map_err(failed)?,
            EntryType::Regular | EntryType::Continuous => {
                make_parents(root, &name).map_err(failed)?;
                make_file(&path, mode, &mut entry).map_err(failed)?;
            }
            EntryType::Symlink => links.push((path, target_of(&entry)?)),
            EntryType::Link => {
                let other = root.join(below(&target_of(&entry)?)?);
                make_parents(root, &name)
                    .and_then(|()| fs::hard_link(other, &path))
                    .map_err(failed)?;
            }
            _ => left_out.push(name),
        }
    }
    for (path, target) in links {
        let name = path.strip_prefix(root).unwrap_or(&path);
        make_parents(root, name)
            .and_then(|()| symlink(target, &path))
            .map_err(|e| VmError::io(format_args!("write {}", name.display()), &e))?;
    }
    // The archive's padding; a program whose output is not read would not end.
    io::copy(from, &mut io::sink()).map_err(damaged)?;
    Ok(left_out)
}

/// `path` without `.`, if it leads down only.
fn below(path: &Path) -> Result<PathBuf, VmError> {
    let mut name = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(VmError::failed(format!(
                    "the guest's archive has the name '{}', which leads out of the copy",
                    path.display()
                )));
            }
        }
    }
    Ok(name)
}

fn target_of(entry: &Entry<'_, impl Read>) -> Result<PathBuf, VmError> {
    let target = entry.link_name().ok().flatten();
    let target = target.map(|target| target.into_owned());
    target.ok_or_else(|| VmError::failed("the guest's archive has a link without its target"))
}

/// Makes a directory; one that is there stays, whose files came before it.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new()
        .mode(mode | OWNER)
        .recursive(true)
        .create(path)
    {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        done => done,
    }
}

/// Makes the directories above `name`. None of them is a symbolic link: those come last.
fn make_parents(root: &Path, name: &Path) -> io::Result<()> {
    let parent = name.parent().unwrap_or(Path::new(""));
    let mut path = root.to_owned();
    for part in parent.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => fs::create_dir(&path)?,
        }
    }
    Ok(())
}

fn make_file(path: &Path, mode: u32, content: &mut impl Read) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    io::copy(content, &mut file).map(drop)
}

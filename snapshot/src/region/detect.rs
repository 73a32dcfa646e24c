//! Finding out what kind of medium a file is on, and how large it is.

use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};

use super::Medium;
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;
use crate::wording::SizeText;

/// A medium, and how many bytes of it a file or device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Detected {
    pub(crate) medium: Medium,
    pub(crate) len_bytes: u64,
}

/// Finds out what a file is on. `None`: it is something that no pool can be in, such as a directory
/// or a disk.
pub(crate) fn detect(file: &File) -> Result<Option<Detected>> {
    let metadata = file
        .metadata()
        .map_err(Error::io("looking at the pool's file"))?;
    if metadata.file_type().is_char_device() {
        return dax_device(&metadata);
    }
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some(Detected {
        medium: file_system_medium(file)?,
        len_bytes: metadata.len(),
    }))
}

/// Names the kind of a file that no pool can be in, with its article. To open such a file may wait
/// or have effects of its own. `None` for a regular file and a DAX device.
pub(crate) fn unfit_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() || (kind.is_char_device() && is_dax_device(metadata)) {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device, but not a DAX device")
    }
}

fn is_dax_device(metadata: &Metadata) -> bool {
    let sysfs = sysfs_of_device("char", metadata.rdev());
    let subsystem = std::fs::read_link(sysfs.join("subsystem")).unwrap_or_default();
    subsystem.file_name().is_some_and(|name| name == "dax")
}

fn file_system_medium(file: &File) -> Result<Medium> {
    let stat = fstatfs(file).map_err(Error::io("asking for the pool's file system"))?;
    let kind: FsType = stat.filesystem_type();
    if kind == TMPFS_MAGIC {
        return Ok(Medium::Tmpfs);
    }
    if kind == HUGETLBFS_MAGIC {
        let page_bytes = u64::try_from(stat.block_size()).unwrap_or(0);
        return if page_bytes == CHUNK_SIZE_BYTES {
            Ok(Medium::Hugetlbfs)
        } else {
            Err(unsupported(format!(
                "this hugetlbfs has pages of {}, and a pool needs pages of 2 MiB: mount it with \
                 pagesize=2M",
                SizeText::of(page_bytes)
            )))
        };
    }
    Ok(if is_dax(file)? {
        Medium::Fsdax
    } else {
        Medium::File
    })
}

/// True when the file is mapped without a page cache: `STATX_ATTR_DAX` of statx(2), Linux 5.8.
fn is_dax(file: &File) -> Result<bool> {
    // SAFETY: all zeros are a valid statx structure.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH means the descriptor itself;
    // `answer` is valid for writes of its size.
    let failed = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            0,
            &mut answer,
        )
    };
    Errno::result(failed).map_err(Error::io(
        "asking whether the pool's file is in persistent memory",
    ))?;
    Ok(answer.stx_attributes & libc::STATX_ATTR_DAX as u64 != 0)
}

/// The directory of a device in sysfs: `/sys/dev/char/MAJOR:MINOR` or `/sys/dev/block/MAJOR:MINOR`.
pub(super) fn sysfs_of_device(kind: &str, device: libc::dev_t) -> PathBuf {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    Path::new("/sys/dev").join(kind).join(number)
}

fn dax_device(metadata: &Metadata) -> Result<Option<Detected>> {
    if !is_dax_device(metadata) {
        return Ok(None);
    }
    let sysfs = sysfs_of_device("char", metadata.rdev());
    let align_bytes = attribute(&sysfs, "align")?.unwrap_or(CHUNK_SIZE_BYTES);
    if align_bytes > CHUNK_SIZE_BYTES {
        return Err(unsupported(format!(
            "this DAX device is mapped {} at a time, and a pool needs 2 MiB: make it with ndctl \
             --align=2M",
            SizeText::of(align_bytes)
        )));
    }
    let size_bytes = attribute(&sysfs, "size")?.ok_or_else(|| {
        unsupported(format!(
            "{} does not tell the device's size",
            sysfs.display()
        ))
    })?;
    Ok(Some(Detected {
        medium: Medium::Devdax,
        len_bytes: size_bytes / CHUNK_SIZE_BYTES * CHUNK_SIZE_BYTES,
    }))
}

/// A number among a device's attributes; `None` where there is no such attribute.
fn attribute(sysfs: &Path, name: &str) -> Result<Option<u64>> {
    let path = sysfs.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", path.display()))(error)),
    }
}

fn unsupported(op: String) -> Error {
    Error::Io {
        op,
        source: std::io::ErrorKind::Unsupported.into(),
    }
}

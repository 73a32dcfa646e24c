//! What kind of medium a pool is on, and what follows from it.

use std::fs::File;

use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};

/// The kind of medium under a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Medium {
    /// Memory of the host, given in 4 KiB pages (tmpfs, memfd).
    Tmpfs,
    /// Memory of the host, given in 2 MiB pages.
    Hugetlbfs,
    /// A file on any other file system, in persistent memory or on a disk.
    File,
}

/// How a running VM is kept from writing to the blocks of its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CowEngine {
    /// Guest RAM maps the blocks themselves; userfaultfd stops the first write to each.
    Userfaultfd,
    /// There is none for this medium yet: snapshots can be kept and looked at, no VM can run.
    None,
}

impl Medium {
    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Medium::Tmpfs => "tmpfs",
            Medium::Hugetlbfs => "hugetlbfs",
            Medium::File => "file",
        }
    }

    /// The copy-on-write engine that VMs on this medium get.
    pub fn cow_engine(self) -> CowEngine {
        match self {
            Medium::Tmpfs => CowEngine::Userfaultfd,
            Medium::Hugetlbfs | Medium::File => CowEngine::None,
        }
    }

    /// Why VMs get that engine, as a sentence for people.
    pub fn cow_engine_reason(self) -> &'static str {
        match self {
            Medium::Tmpfs => "userfaultfd can write-protect shared memory",
            Medium::Hugetlbfs => {
                "VMs cannot run from huge pages yet, which can only be mapped 2 MiB at a time"
            }
            Medium::File => {
                "VMs cannot run from it yet: userfaultfd cannot write-protect mappings of ordinary or DAX files"
            }
        }
    }

    /// Whether what was flushed is still there after a restart of the host.
    pub fn outlives_the_host(self) -> bool {
        self == Medium::File
    }

    /// Bytes of a page of the medium, the least it can take back.
    pub fn page_bytes(self) -> u64 {
        match self {
            Medium::Tmpfs | Medium::File => BLOCK_SIZE_BYTES,
            Medium::Hugetlbfs => CHUNK_SIZE_BYTES,
        }
    }
}

/// Finds out what kind of medium a file is on.
pub(crate) fn detect(file: &File) -> Result<Medium> {
    let stat = fstatfs(file).map_err(Error::io("asking for the pool's file system"))?;
    let kind: FsType = stat.filesystem_type();
    if kind == TMPFS_MAGIC {
        return Ok(Medium::Tmpfs);
    }
    if kind != HUGETLBFS_MAGIC {
        return Ok(Medium::File);
    }
    let page_bytes = u64::try_from(stat.block_size()).unwrap_or(0);
    if page_bytes != CHUNK_SIZE_BYTES {
        return Err(Error::Io {
            op: format!(
                "this hugetlbfs has pages of {page_bytes} bytes, a pool needs 2 MiB pages: mount it with pagesize=2M"
            ),
            source: std::io::ErrorKind::Unsupported.into(),
        });
    }
    Ok(Medium::Hugetlbfs)
}

/// Bytes that the medium under a file can still give.
pub(crate) fn available_bytes(file: &File, medium: Medium) -> Result<u64> {
    let stat = fstatvfs(file).map_err(Error::io("asking for the space left on the pool's medium"))?;
    let left = stat.blocks_available().saturating_mul(stat.fragment_size());
    if medium == Medium::Tmpfs {
        return Ok(left.min(memory_available_bytes()?));
    }
    Ok(left)
}

/// `MemAvailable` of proc_meminfo(5): a tmpfs may be allowed more than the host has.
fn memory_available_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(Error::io("reading /proc/meminfo"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024)))
}

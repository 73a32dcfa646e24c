//! How much a medium can still give.

use std::fs::File;

use nix::sys::statvfs::fstatvfs;

use super::{Medium, detect};
use crate::error::{Error, Result};

/// Bytes that the medium under a file can still give.
pub(crate) fn available_bytes(file: &File, medium: Medium) -> Result<u64> {
    if medium == Medium::Devdax {
        return Ok(detect(file)?.map_or(0, |detected| detected.len_bytes));
    }
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

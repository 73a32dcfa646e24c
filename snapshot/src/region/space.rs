//! Space that a medium can still give.

use std::fs::File;

use nix::sys::statvfs::fstatvfs;

use super::{Medium, detect};
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;

/// Bytes that the medium under a file can still give.
pub(crate) fn available_bytes(file: &File, medium: Medium) -> Result<u64> {
    if medium == Medium::Devdax {
        return Ok(detect(file)?.map_or(0, |detected| detected.len_bytes));
    }
    let stat =
        fstatvfs(file).map_err(Error::io("asking for the space left on the pool's medium"))?;
    let left = stat.blocks_available().saturating_mul(stat.fragment_size());
    Ok(match medium {
        Medium::Tmpfs => left.min(memory_available_bytes()?),
        // A mount without `size=` has no blocks.
        Medium::Hugetlbfs if stat.blocks() == 0 => huge_pages_available_bytes()?,
        Medium::Hugetlbfs => left.min(huge_pages_available_bytes()?),
        Medium::Fsdax | Medium::Devdax | Medium::File => left,
    })
}

/// Huge pages that nobody has and nobody has reserved, and those that the kernel may make beyond
/// its pool (Documentation/admin-guide/mm/hugetlbpage.rst).
fn huge_pages_available_bytes() -> Result<u64> {
    let count = |name: &str| -> Result<u64> {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if is_confined(&error) => return Ok(0),
            read => read.map_err(Error::io(format!("reading {path}")))?,
        };
        Ok(text.trim().parse().unwrap_or(0))
    };
    let free = count("free_hugepages")?.saturating_sub(count("resv_hugepages")?);
    let more = count("nr_overcommit_hugepages")?.saturating_sub(count("surplus_hugepages")?);
    Ok(free.saturating_add(more).saturating_mul(CHUNK_SIZE_BYTES))
}

/// True for the answer to a process that may open no file any more.
fn is_confined(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound
    )
}

/// `MemAvailable` of proc_meminfo(5): a tmpfs may be allowed more than the host has. A confined
/// process cannot read it; then the tmpfs's own limit counts alone.
fn memory_available_bytes() -> Result<u64> {
    let text = match std::fs::read_to_string("/proc/meminfo") {
        Err(error) if is_confined(&error) => return Ok(u64::MAX),
        read => read.map_err(Error::io("reading /proc/meminfo"))?,
    };
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
    Ok(kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024)))
}

//! Finds out what a pool's snapshots survive: the medium decides, and what is under it on this
//! host.
//!
//! docs/using/what-survives.md and docs/inside/media.md have this as a table; a test makes it from
//! `limit` and compares.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::fstatfs;

use super::Medium;
use super::detect::sysfs_of_device;
use crate::durability::{Durability, DurabilityLimit};
use crate::error::{Error, Result};

/// `RAMFS_MAGIC` of statfs(2).
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// The storage under a file or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Below {
    /// Memory of the host behind the appearance of a disk or a file system.
    HostMemory(String),
    /// Persistent memory, with the name of its region and its persistence domain.
    Persistent {
        region: String,
        domain: Option<String>,
    },
    /// A disk, a network, or anything else that has to be told to flush.
    Other,
}

/// Finds out how durable a pool in a file can be.
pub(crate) fn durability_limit(file: &File, medium: Medium) -> Result<DurabilityLimit> {
    let metadata = file
        .metadata()
        .map_err(Error::io("looking at the pool's file"))?;
    let below = match medium {
        Medium::Tmpfs | Medium::Hugetlbfs => Below::HostMemory(medium.name().to_owned()),
        Medium::Devdax => below_device(&sysfs_of_device("char", metadata.rdev())),
        Medium::Fsdax | Medium::File => {
            let stat = fstatfs(file).map_err(Error::io("asking for the pool's file system"))?;
            if stat.filesystem_type().0 as i64 == RAMFS_MAGIC {
                Below::HostMemory("ramfs".to_owned())
            } else {
                below_device(&sysfs_of_device("block", metadata.dev()))
            }
        }
    };
    Ok(limit(medium, &below))
}

/// Finds out what is under the device that a directory of sysfs describes. A device made of others
/// (dm, md) counts as `Other`.
fn below_device(sysfs: &Path) -> Below {
    let path = std::fs::canonicalize(sysfs).unwrap_or_default();
    if let Some(region) = region_of(&path) {
        let domain = std::fs::read_to_string(region.join("persistence_domain")).ok();
        return Below::Persistent {
            region: last_name(&region),
            domain: domain.map(|text| text.trim().to_owned()),
        };
    }
    let name = last_name(&path);
    let without_number = name.trim_end_matches(|digit: char| digit.is_ascii_digit());
    if matches!(without_number, "ram" | "zram") {
        return Below::HostMemory(format!("the RAM disk {name}"));
    }
    Below::Other
}

/// The NVDIMM region that a device is part of (`/sys/bus/nd/devices/regionN`).
fn region_of(device: &Path) -> Option<PathBuf> {
    let region = device.ancestors().find(|path| {
        let parent = path.parent().map(last_name).unwrap_or_default();
        last_name(path).starts_with("region") && parent.starts_with("ndbus")
    })?;
    Some(region.to_owned())
}

fn last_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn limit(medium: Medium, below: &Below) -> DurabilityLimit {
    let (strongest, reason) = match (medium, below) {
        (_, Below::HostMemory(what)) => (
            Durability::Process,
            format!("{what} is memory of the host, which a restart of the host empties"),
        ),
        (_, Below::Persistent { region, domain }) => match domain.as_deref() {
            Some(domain @ ("memory_controller" | "cpu_cache")) => (
                Durability::Power,
                format!("the persistence domain of {region} is {domain}"),
            ),
            _ => (
                Durability::Host,
                format!(
                    "the platform names no persistence domain for {region}, as where persistent \
                     memory is emulated: a power cut may empty it"
                ),
            ),
        },
        (Medium::Devdax, Below::Other) => (
            Durability::Process,
            "the device is no part of an NVDIMM region: a restart of the host may empty it"
                .to_owned(),
        ),
        (Medium::Fsdax, Below::Other) => (
            Durability::Host,
            "what is under the file system tells no persistence domain: a power cut may empty it"
                .to_owned(),
        ),
        (_, Below::Other) => (
            Durability::Power,
            "as far as the disk honours flushes".to_owned(),
        ),
    };
    DurabilityLimit { strongest, reason }
}

#[cfg(test)]
#[path = "durability_test.rs"]
mod durability_test;

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::{Mapping, mappings};
use crate::arch::SYSCALL;
use crate::error::{Error, Pid, failed};
use crate::inject::Memory;

/// Properties of the kernel that a process has in its memory or registers, and needs again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The release, as `uname -r` shows it.
    pub release: String,
    /// The size of the vDSO with what belongs to it.
    pub vdso_bytes: u64,
    /// CRC-32 of its code.
    pub vdso_crc: u32,
}

/// The place of the vDSO, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdso {
    /// Start and length of each mapping, by address, neighbours.
    pub parts: Vec<(u64, u64)>,
    /// The address of a `syscall` instruction in it.
    pub syscall_at: u64,
    /// CRC-32 of its code.
    pub crc: u32,
}

impl Vdso {
    /// Its first address.
    pub fn start(&self) -> u64 {
        self.parts[0].0
    }

    /// The size of all of it.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, len)| len).sum()
    }
}

/// Looks for the vDSO among the mappings of a process. None: it has none, or one with no system
/// call in it.
pub fn find_vdso(pid: Pid, mappings: &[Mapping]) -> Result<Option<Vdso>, Error> {
    let parts: Vec<&Mapping> = mappings
        .iter()
        .filter(|mapping| mapping.is_vdso())
        .collect();
    let Some(code) = parts
        .iter()
        .find(|mapping| mapping.name.as_os_str() == "[vdso]")
    else {
        return Ok(None);
    };
    if parts.windows(2).any(|pair| pair[0].end != pair[1].start) {
        return Ok(None);
    }
    let mut bytes = vec![0; code.size_bytes() as usize];
    Memory::open(pid)?.read(code.start, &mut bytes)?;
    let found = bytes
        .windows(SYSCALL.len())
        .position(|code| code == SYSCALL);
    Ok(found.map(|at| Vdso {
        parts: parts
            .iter()
            .map(|mapping| (mapping.start, mapping.size_bytes()))
            .collect(),
        syscall_at: code.start + at as u64,
        crc: crc32fast::hash(&bytes),
    }))
}

/// The ID of this boot of the kernel.
pub fn boot() -> Result<String, Error> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(failed("read the boot's number"))?;
    Ok(id.trim().to_owned())
}

/// The running kernel, seen through this process. It is looked at once.
pub fn kernel() -> Result<&'static Kernel, Error> {
    static SEEN: OnceLock<Kernel> = OnceLock::new();
    if let Some(seen) = SEEN.get() {
        return Ok(seen);
    }
    let seen = look()?;
    Ok(SEEN.get_or_init(|| seen))
}

fn look() -> Result<Kernel, Error> {
    let own = std::process::id() as Pid;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(failed("read the kernel's release"))?;
    let vdso = find_vdso(own, &mappings(own)?)?;
    Ok(Kernel {
        release: release.trim().to_owned(),
        vdso_bytes: vdso.as_ref().map_or(0, Vdso::size_bytes),
        vdso_crc: vdso.map_or(0, |vdso| vdso.crc),
    })
}

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{read, unreadable};
use crate::arch::KERNEL_MAPPING;
use crate::error::{Error, Pid};

/// One line of /proc/PID/maps with what smaps says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// PROT_READ, PROT_WRITE, PROT_EXEC.
    pub protection: i32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// 0: no file.
    pub inode: u64,
    /// The file, or a name in brackets; empty: none.
    pub name: PathBuf,
    /// The two-letter names of `VmFlags`.
    pub flags: Vec<[u8; 2]>,
    /// Memory that is in page tables.
    pub resident_kib: u64,
    /// Memory that is the process's own, not the file's.
    pub anonymous_kib: u64,
    /// Memory that is swapped out.
    pub swapped_kib: u64,
    /// Its memory protection key.
    pub protection_key: u32,
}

impl Mapping {
    /// True if `VmFlags` has this name.
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// True for memory of a file. The inode number of a segment of System V is the segment's, and
    /// may be 0.
    pub fn is_of_file(&self) -> bool {
        self.inode != 0
            || self
                .name
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"/SYSV")
    }

    /// True for the vDSO and its data, which the kernel maps itself.
    pub fn is_vdso(&self) -> bool {
        ["[vdso]", "[vvar]", "[vvar_vclock]"]
            .iter()
            .any(|name| self.name.as_os_str() == *name)
    }
}

/// The mappings of a process, by address; without the gate page that is no mapping.
pub fn mappings(pid: Pid) -> Result<Vec<Mapping>, Error> {
    parse(&read(pid, "smaps")?).ok_or_else(|| unreadable(pid, "smaps"))
}

pub(super) fn parse(text: &[u8]) -> Option<Vec<Mapping>> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        // Keys begin with a capital letter, addresses do not.
        if line[0].is_ascii_uppercase() {
            set_field(found.last_mut()?, line)?;
        } else {
            found.push(parse_header(line)?);
        }
    }
    found.retain(|mapping| mapping.name.as_os_str() != KERNEL_MAPPING);
    Some(found)
}

fn parse_header(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut next = || {
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail.trim_ascii_start();
        std::str::from_utf8(word).ok()
    };
    let (start, end) = next()?.split_once('-')?;
    let permissions = next()?.as_bytes();
    let offset = next()?;
    let _device = next()?;
    let inode = next()?.parse().ok()?;
    let bit = |at: usize, letter: u8, value: i32| {
        if permissions.get(at) == Some(&letter) {
            value
        } else {
            0
        }
    };
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection: bit(0, b'r', libc::PROT_READ)
            | bit(1, b'w', libc::PROT_WRITE)
            | bit(2, b'x', libc::PROT_EXEC),
        shared: permissions.get(3) == Some(&b's'),
        offset: u64::from_str_radix(offset, 16).ok()?,
        inode,
        name: PathBuf::from(OsString::from_vec(unescape(rest))),
        ..Mapping::default()
    })
}

/// A line break in a name is written as `\012`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.first() {
        let escaped = rest.starts_with(b"\\012");
        plain.push(if escaped { b'\n' } else { *first });
        rest = &rest[if escaped { 4 } else { 1 }..];
    }
    plain
}

fn set_field(mapping: &mut Mapping, line: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(line).ok()?;
    let (key, value) = text.split_once(':')?;
    let kib = || {
        value
            .trim()
            .trim_end_matches("kB")
            .trim_end()
            .parse::<u64>()
            .ok()
    };
    match key {
        "Rss" => mapping.resident_kib = kib()?,
        "Anonymous" => mapping.anonymous_kib = kib()?,
        "Swap" => mapping.swapped_kib = kib()?,
        "ProtectionKey" => mapping.protection_key = value.trim().parse().ok()?,
        "VmFlags" => {
            let names = value
                .split_ascii_whitespace()
                .map(|name| name.as_bytes().try_into().ok());
            mapping.flags = names.collect::<Option<_>>()?;
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
#[path = "mappings_test.rs"]
mod mappings_test;

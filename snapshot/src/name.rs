//! Names of snapshots, holders and disks.

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Longest name in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Refuses what cannot be a name.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<()> {
    let good = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with(['.', '-', '@'])
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    if good {
        Ok(())
    } else {
        Err(Error::InvalidName {
            name: name.to_owned(),
        })
    }
}

/// The name of a disk, as a value of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskName {
    bytes: [u8; NAME_BYTES_MAX],
    len: u8,
}

impl DiskName {
    /// The name of these characters.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn new(name: &str) -> Result<DiskName> {
        check_name(name)?;
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let len = name.len() as u8;
        Ok(DiskName { bytes, len })
    }

    /// The name's characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).unwrap_or_default()
    }
}

impl std::fmt::Display for DiskName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(self.as_str())
    }
}

impl std::fmt::Debug for DiskName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), out)
    }
}

impl Serialize for DiskName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The names that someone who typed `wanted` may have meant, best first, at most three.
pub fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let distance = if name.starts_with(wanted) || wanted.starts_with(name) {
                1
            } else {
                edit_distance(wanted, name)
            };
            (distance <= 2.max(wanted.len() / 4)).then_some((distance, name))
        })
        .collect();
    near.sort();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

//! Names of snapshots and holders.

use crate::error::{Error, Result};

/// Longest name in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Refuses what cannot be a name: see [`Error::InvalidName`].
pub(crate) fn check_name(name: &str) -> Result<()> {
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

/// The names that someone who typed `wanted` may have meant, best first, at most three.
pub(crate) fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
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

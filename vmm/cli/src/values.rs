//! Values of arguments: sizes, disks, names.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use glob::Pattern;
use nvvmm::control::registry::check_vm_name;
use nvvmm::ring::is_member_name;
use nvvmm::spec::{DiskSpec, VmSpec};
use nvvmm_snapshot::CHUNK_SIZE_BYTES;

use super::names::{NamePattern, is_pattern};

/// The largest size that a pool can have (2^32 blocks of 4 KiB).
const SIZE_BYTES_MAX: u64 = 16 << 40;
/// Longest name of a snapshot, in bytes.
const SNAPSHOT_NAME_BYTES_MAX: usize = 128;

/// A size in bytes, a multiple of 2 MiB: `512M`, `2G`, `1.5GiB`, `1073741824`. K, M, G and T are
/// powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes == 0 || bytes % CHUNK_SIZE_BYTES != 0 {
        return Err(format!(
            "{bytes} bytes is not a multiple of 2M (2097152 bytes)"
        ));
    }
    Ok(bytes)
}

/// The size that something shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// This many bytes.
    Whole(u64),
    /// This many bytes more than now.
    More(u64),
}

impl NewSize {
    /// The new size in bytes.
    pub fn bytes(self, now_bytes: u64) -> u64 {
        match self {
            NewSize::Whole(bytes) => bytes,
            NewSize::More(bytes) => now_bytes.saturating_add(bytes),
        }
    }
}

/// A size as of [`size`], or `+` and by how much.
pub fn new_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => size(more).map(NewSize::More),
        None => size(text).map(NewSize::Whole),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        other => {
            return Err(format!(
                "unknown unit '{other}': use K, M, G or T (powers of 1024)"
            ));
        }
    };
    let too_large = || {
        format!(
            "more than the {} TiB that a pool can have",
            SIZE_BYTES_MAX >> 40
        )
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let no_number = || format!("'{number}' is not a number, for example 512M or 2G");
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 || number.ends_with('.') {
        return Err(no_number());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = u128::from(whole) << shift;
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse().map_err(|_| no_number())?;
        bytes +=
            (parts << shift) / 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| no_number())?);
    }
    u64::try_from(bytes)
        .ok()
        .filter(|&b| b <= SIZE_BYTES_MAX)
        .ok_or_else(too_large)
}

/// A disk as of [`disk`]. Its path must be text.
pub fn disk_argument(argument: OsString) -> Result<DiskSpec, String> {
    match argument.to_str() {
        Some(text) => disk(text),
        None => Err(format!(
            "the path of the disk, {argument:?}, has bytes that are not UTF-8: rename it, or give \
             a symbolic link to it"
        )),
    }
}

/// `PATH`, `PATH,ro` or `PATH,rw`.
pub fn disk(text: &str) -> Result<DiskSpec, String> {
    let (path, read_only) = match text.rsplit_once(',') {
        None => (text, false),
        Some((path, "ro")) => (path, true),
        Some((path, "rw")) => (path, false),
        Some((_, option)) => {
            return Err(format!(
                "unknown disk option '{option}': use PATH, PATH,ro or PATH,rw (the last also for \
                 a path with a comma)"
            ));
        }
    };
    if path.is_empty() {
        return Err("the path of the disk is missing".to_owned());
    }
    Ok(DiskSpec {
        path: PathBuf::from(path),
        read_only,
    })
}

/// A VM name.
pub fn vm_name(text: &str) -> Result<String, String> {
    check_vm_name(text).map_err(|e| e.remedy.unwrap_or(e.message))?;
    Ok(text.to_owned())
}

/// The name of a snapshot to be taken: one of [`snapshot_name`] that is no checkpoint's.
pub fn new_snapshot_name(text: &str) -> Result<String, String> {
    if is_member_name(text) {
        return Err("names with @ are reserved for checkpoints ('nvvmm checkpoint')".to_owned());
    }
    if is_pattern(text) {
        return Err("a new snapshot has one name, and no pattern".to_owned());
    }
    snapshot_name(text)
}

/// A time from one microsecond to a year (`10ms`, `1m 30s`), or 0.
pub fn period(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let period =
        humantime::parse_duration(text).map_err(|e| format!("{e}: use 10ms, 5s or 1m, or 0"))?;
    if period < Duration::from_micros(1) || period > Duration::from_secs(365 * 86_400) {
        return Err("use a time from 1us to a year, or 0".to_owned());
    }
    Ok(period)
}

/// A limit of time: `90s`, `2m`, or a number of seconds as other tools take it.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|e| format!("{e}: use 90s or 2m, or a number of seconds"))?,
    };
    match limit <= Duration::from_secs(365 * 86_400) {
        true => Ok(limit),
        false => Err("use a time of at most a year".to_owned()),
    }
}

/// A snapshot name: `[A-Za-z0-9._@-]`, not starting with `.`, `-` or `@`, at most 128 bytes.
pub fn snapshot_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    let fits = (1..=SNAPSHOT_NAME_BYTES_MAX).contains(&text.len());
    if !fits || !text.bytes().all(allowed) || text.starts_with(['.', '-', '@']) {
        return Err(format!(
            "use 1 to {SNAPSHOT_NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ - (and @ in the \
             name of a checkpoint, for example web@7), and start with a letter, a digit or _"
        ));
    }
    Ok(text.to_owned())
}

/// The name of a VM, or a pattern of such names.
pub fn vm_names(text: &str) -> Result<NamePattern, String> {
    match is_pattern(text) {
        true => pattern(
            text,
            |b| b.is_ascii_alphanumeric() || b"._-".contains(&b),
            "._-",
        ),
        false => vm_name(text).map(NamePattern::Name),
    }
}

/// The name of a snapshot, or a pattern of such names.
pub fn snapshot_names(text: &str) -> Result<NamePattern, String> {
    match is_pattern(text) {
        true => pattern(
            text,
            |b| b.is_ascii_alphanumeric() || b"._@-".contains(&b),
            "._@-",
        ),
        false => snapshot_name(text).map(NamePattern::Name),
    }
}

/// A pattern that can match a name of characters that are `allowed`: letters, digits and `others`.
fn pattern(text: &str, allowed: impl Fn(u8) -> bool, others: &str) -> Result<NamePattern, String> {
    let fits = |b: u8| allowed(b) || b"*?[]!".contains(&b);
    let parsed = match text.len() <= SNAPSHOT_NAME_BYTES_MAX && text.bytes().all(fits) {
        true => Pattern::new(text).ok(),
        false => None,
    };
    parsed.map(NamePattern::Pattern).ok_or_else(|| {
        format!(
            "a pattern has letters, digits and {others}, and * for any text, ? for one character, \
             [a-d] for one of these"
        )
    })
}

/// A number of vCPUs.
pub fn vcpus(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ 1..=VmSpec::VCPUS_MAX) => Ok(count),
        _ => Err(format!("a machine has 1 to {} vCPUs", VmSpec::VCPUS_MAX)),
    }
}

/// A place to copy from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyPlace {
    /// Standard input or standard output: `-`.
    Stream,
    /// A path on the host.
    Host(PathBuf),
    /// A path in a guest.
    Guest {
        /// Name of its VM.
        vm: String,
        /// Path in the guest.
        path: PathBuf,
    },
}

/// `VM:PATH`, `-`, or a path on the host: one without a colon, or with a slash before the first.
pub fn copy_place(text: &str) -> Result<CopyPlace, String> {
    match text.split_once(':') {
        Some((vm, path)) if !vm.contains('/') => {
            if path.is_empty() {
                return Err("the path after the colon is missing".to_owned());
            }
            Ok(CopyPlace::Guest {
                vm: vm_name(vm)?,
                path: path.into(),
            })
        }
        _ if text.is_empty() => Err("the path is missing".to_owned()),
        _ if text == "-" => Ok(CopyPlace::Stream),
        _ => Ok(CopyPlace::Host(text.into())),
    }
}

/// `NAME=VALUE`.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
#[path = "values_test.rs"]
mod values_test;

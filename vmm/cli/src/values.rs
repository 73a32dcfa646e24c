//! Values of arguments: sizes, disks, names.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use glob::Pattern;
use nvvmm::control::registry::{VM_NAME_BYTES_MAX, check_vm_name};
use nvvmm::ring::is_member_name;
use nvvmm::spec::{DiskSource, DiskSpec, VmSpec};
use nvvmm_remote::{ObjectId, StoreUrl};
use nvvmm_snapshot::{CHUNK_SIZE_BYTES, Durability, SizeText};

use super::whole_number;

use super::names::{NamePattern, is_pattern};

/// The largest size that a pool can have (2^32 blocks of 4 KiB).
const SIZE_BYTES_MAX: u64 = 16 << 40;
/// The smallest rate of a disk in bytes per second: guests give up on disks that are slower.
const DISK_RATE_MIN: u64 = 64 << 10;
/// The largest rate of a disk in requests per second.
const DISK_IOPS_MAX: u32 = 1_000_000_000;
/// Longest name of a snapshot, in bytes.
const SNAPSHOT_NAME_BYTES_MAX: usize = 128;

/// A size in bytes, a multiple of 2 MiB: `512M`, `2G`, `1.5GiB`, `1073741824`. K, M, G and T are
/// powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = bytes(text, SIZE_BYTES_MAX)?;
    if bytes < CHUNK_SIZE_BYTES {
        return Err(format!(
            "{} is too small: the smallest size is 2M",
            SizeText::of(bytes)
        ));
    }
    if bytes % CHUNK_SIZE_BYTES != 0 {
        let below = bytes / CHUNK_SIZE_BYTES * 2;
        return Err(format!(
            "{} is not a multiple of 2M: the nearest sizes are {below}M and {}M",
            in_bytes(bytes),
            below + 2
        ));
    }
    Ok(bytes)
}

/// The size of a balloon: 0, or as [`size`].
pub fn balloon(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        _ => size(text),
    }
}

/// A size, and its bytes where the unit rounds them.
fn in_bytes(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => SizeText::of(bytes).to_string(),
        _ => format!("{} ({bytes} bytes)", SizeText::of(bytes)),
    }
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

/// A number of bytes, `bytes_max` at most.
pub(super) fn bytes(text: &str, bytes_max: u64) -> Result<u64, String> {
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
            return Err(match number {
                "" => "this is not a size: give a number with a unit, for example 512M or 2G"
                    .to_owned(),
                _ => format!("the unit '{other}' is unknown: use K, M, G or T (powers of 1024)"),
            });
        }
    };
    let too_large = || {
        let most = SizeText::of(bytes_max);
        format!("{text} is too large: the largest size is {most}")
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let no_number = || match number {
        "" => "the number is missing: for example 512M or 2G".to_owned(),
        _ => format!("'{number}' is not a number: use digits, for example 512M or 1.5G"),
    };
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
        .filter(|&b| b <= bytes_max)
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

/// A disk: `PATH`, and behind commas any of `ro` or `rw`, `dax`, `rate=BYTES`, `iops=COUNT` and
/// `raw`. A path with commas has `rw` or `ro` directly behind it.
pub fn disk(text: &str) -> Result<DiskSpec, String> {
    let (mut path, mut options) = (text, Vec::new());
    // From the last one on. A second mode is part of the path.
    while let Some((before, option)) = path.rsplit_once(',') {
        let is_option = match option {
            "ro" | "rw" => !options.iter().any(|seen| matches!(*seen, "ro" | "rw")),
            "raw" | "dax" => true,
            _ => option.starts_with("rate=") || option.starts_with("iops="),
        };
        if !is_option {
            break;
        }
        options.push(option);
        path = before;
    }
    if let Some((_, option)) = path.rsplit_once(',')
        && !matches!(options.last(), Some(&"ro" | &"rw"))
    {
        return Err(format!(
            "the disk option '{option}' is unknown: use ro, rw, dax, rate=100M, iops=2000 or \
             raw; a path with a comma needs ,rw or ,ro directly behind it"
        ));
    }
    if path.is_empty() {
        return Err("the path of the disk is missing".to_owned());
    }
    let mut disk = DiskSpec {
        source: DiskSource::File(PathBuf::from(path)),
        ..DiskSpec::default()
    };
    for option in options {
        set_disk_option(&mut disk, option)?;
    }
    Ok(disk)
}

fn set_disk_option(disk: &mut DiskSpec, option: &str) -> Result<(), String> {
    let once = |is_set: bool| match is_set {
        true => Err(format!("the disk option '{option}' is given twice")),
        false => Ok(()),
    };
    match option.split_once('=') {
        Some(("rate", value)) => {
            once(disk.rate.bytes_per_s.is_some())?;
            let rate =
                bytes(value, SIZE_BYTES_MAX).map_err(|fault| format!("in '{option}': {fault}"))?;
            if rate < DISK_RATE_MIN {
                return Err(format!(
                    "in '{option}': the smallest rate is 64K (bytes per second)"
                ));
            }
            disk.rate.bytes_per_s = NonZeroU64::new(rate);
        }
        Some((_, value)) => {
            once(disk.rate.requests_per_s.is_some())?;
            let count = whole_number::parse(value, &(1..=DISK_IOPS_MAX))
                .map_err(|fault| format!("in '{option}': {fault}"))?;
            disk.rate.requests_per_s = NonZeroU64::new(count.into());
        }
        None if option == "raw" => {
            once(disk.is_surely_raw)?;
            disk.is_surely_raw = true;
        }
        None if option == "dax" => {
            once(disk.dax)?;
            disk.dax = true;
        }
        None => disk.read_only = option == "ro",
    }
    Ok(())
}

/// A VM name.
pub fn vm_name(text: &str) -> Result<String, String> {
    if let Some(fault) = name_fault(text, "._-", VM_NAME_BYTES_MAX) {
        return Err(fault);
    }
    // The registry decides.
    check_vm_name(text).map_err(|e| e.remedy.unwrap_or(e.message))?;
    Ok(text.to_owned())
}

/// The name of a snapshot to be taken: one of [`snapshot_name`] that is no checkpoint's.
pub fn new_snapshot_name(text: &str) -> Result<String, String> {
    if is_member_name(text) {
        return Err(
            "names with @ are reserved for checkpoints ('nvvmm checkpoint') and replicas"
                .to_owned(),
        );
    }
    if is_pattern(text) {
        return Err("a new snapshot has one name, and no pattern".to_owned());
    }
    snapshot_name(text)
}

/// The URL of a store.
pub fn store_url(text: &str) -> Result<StoreUrl, String> {
    StoreUrl::parse(text).map_err(|fault| fault.to_string())
}

/// The URL of a snapshot in a store.
pub fn remote_snapshot(text: &str) -> Result<(StoreUrl, String), String> {
    StoreUrl::parse_with_snapshot(text).map_err(|fault| fault.to_string())
}

/// The name of a snapshot, or the URL of one in a store.
pub fn snapshot_or_url(text: &str) -> Result<String, String> {
    match text.contains("://") {
        true => remote_snapshot(text).map(|_| text.to_owned()),
        false => snapshot_name(text),
    }
}

/// The identity of a push.
pub fn push_id(text: &str) -> Result<ObjectId, String> {
    let fault = "a push has 32 hexadecimal digits; 'nvvmm remote gc' lists them";
    text.parse().map_err(|()| fault.to_owned())
}

/// A durability; shells complete its names.
pub fn durability() -> impl TypedValueParser<Value = Durability> {
    let names = Durability::ALL.map(Durability::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Durability>())
}

/// A time from one microsecond to a year (`10ms`, `1m 30s`), or 0.
pub fn period(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return Err(format!(
            "the unit is missing: for example {text}ms or {text}s"
        ));
    }
    let period = humantime::parse_duration(text)
        .map_err(|_| "this is not a time: for example 10ms, 5s, 1m 30s, or 0".to_owned())?;
    if period < Duration::from_micros(1) {
        return Err(format!(
            "{text} is too short: the shortest time is 1us, or 0"
        ));
    }
    if period > Duration::from_secs(365 * 86_400) {
        return Err(format!("{text} is too long: the longest time is a year"));
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
    match name_fault(text, "._-@", SNAPSHOT_NAME_BYTES_MAX) {
        Some(fault) => Err(fault),
        None => Ok(text.to_owned()),
    }
}

/// The reason why `text` is no name: of letters, digits and `marks`, beginning with a letter, a
/// digit or `_`.
fn name_fault(text: &str, marks: &str, bytes_max: usize) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    let shown = |c: char| match c {
        ' ' => "a blank".to_owned(),
        c => format!("'{}'", c.escape_debug()),
    };
    let listed: Vec<String> = marks.chars().map(String::from).collect();
    let listed = format!("A-Z a-z 0-9 {}", listed.join(" "));
    if text.is_empty() {
        return Some("the name is empty".to_owned());
    }
    if let Some(other) = text.chars().find(|c| !allowed(*c)) {
        let other = shown(other);
        return Some(format!("{other} cannot be in a name: use {listed}"));
    }
    if text.len() > bytes_max {
        return Some(format!(
            "the name has {} characters, and {bytes_max} are allowed",
            text.len()
        ));
    }
    let first = text
        .chars()
        .next()
        .filter(|c| !c.is_ascii_alphanumeric() && *c != '_')?;
    let first = shown(first);
    Some(format!(
        "a name cannot begin with {first}: begin with a letter, a digit or _"
    ))
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
    whole_number::between(1..=VmSpec::VCPUS_MAX.into())(text)
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
        Some(_) => Err("the name is missing: write NAME=VALUE".to_owned()),
        None => Err("the value is missing: write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
#[path = "values_test.rs"]
mod values_test;

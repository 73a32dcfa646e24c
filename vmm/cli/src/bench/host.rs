//! Facts about the host that the benchmark ran on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nvvmm::{ErrorKind, VmError};
use serde::{Deserialize, Serialize};

use super::load::HostLoad;

/// Media whose memory comes in huge pages, as [`medium_of`] names them.
pub const HUGE_MEDIA: [&str; 2] = ["hugetlbfs", "tmpfs with huge pages"];
/// Setting of the kernel that overrules the mount option of a tmpfs.
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The host, as far as it decides the figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// Name of the processor.
    pub cpu: String,
    /// Number of CPUs of the host.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Kind of KVM: the module, and the virtualisation below it.
    pub kvm: String,
    /// Load before the run. Reports of older programs do not have it.
    #[serde(default)]
    pub load: Option<HostLoad>,
}

impl HostFacts {
    /// Collects the facts of this host. Those that it does not tell are empty.
    pub fn gather() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_field("MemTotal"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            kvm: kvm_kind(&cpuinfo).to_owned(),
            load: None,
        }
    }
}

/// A field of /proc/meminfo (proc_meminfo(5)) in bytes; 0 when it is not there.
pub fn memory_field(name: &str) -> u64 {
    let meminfo = read("/proc/meminfo");
    let kib = field(&meminfo, name).and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The name by which a directory's medium goes in tables: tmpfs with or without huge pages,
/// hugetlbfs, or its file system.
pub fn medium_of(dir: &Path) -> String {
    let mounts = read("/proc/self/mounts");
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mount = mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| dir.starts_with(mount.place))
        // Of several at one place the last one is seen.
        .max_by_key(|mount| mount.place.len());
    mount.map_or_else(String::new, |mount| mount.medium())
}

/// Refuses directories that are not on the kind of memory that their option is for: figures of two
/// media would be in one series.
///
/// # Errors
/// [`ErrorKind::Usage`]: the kind is another one, or two directories are on one medium.
/// [`ErrorKind::NotFound`].
pub fn check_directories(dir: &Path, huge_dirs: &[PathBuf]) -> Result<(), VmError> {
    let medium = medium_of_directory("--dir", dir)?;
    if HUGE_MEDIA.contains(&medium.as_str()) {
        let why = format!(
            "--dir {} is on {medium}, and --dir is for ordinary pages of 4 KiB",
            dir.display()
        );
        let remedy = "name it with --huge-dir, which is measured beside --dir";
        return Err(VmError::new(ErrorKind::Usage, why).with_remedy(remedy));
    }
    let shmem = read(SHMEM_ENABLED);
    let mut seen: Vec<String> = Vec::new();
    for dir in huge_dirs {
        let medium = medium_of_directory("--huge-dir", dir)?;
        if let Some(fault) = huge_fault(&medium, &shmem) {
            let why = format!("--huge-dir {} is on {fault}", dir.display());
            return Err(VmError::new(ErrorKind::Usage, why).with_remedy(
                "give a hugetlbfs with free pages of 2 MiB, or a tmpfs that is mounted with \
                 huge=always; scripts/bench.sh sets up both",
            ));
        }
        if seen.contains(&medium) {
            let why = format!("two directories of --huge-dir are on {medium}");
            let remedy = "give one directory for each medium";
            return Err(VmError::new(ErrorKind::Usage, why).with_remedy(remedy));
        }
        seen.push(medium);
    }
    Ok(())
}

fn medium_of_directory(option: &str, dir: &Path) -> Result<String, VmError> {
    let found = fs::metadata(dir)
        .map_err(|e| VmError::io(format_args!("use {option} {}", dir.display()), &e))?;
    if !found.is_dir() {
        let why = format!("{option} {} is not a directory", dir.display());
        return Err(VmError::new(ErrorKind::Usage, why));
    }
    Ok(medium_of(dir))
}

/// The reason why a medium has no huge pages.
fn huge_fault(medium: &str, shmem_enabled: &str) -> Option<String> {
    match medium {
        "hugetlbfs" => None,
        "tmpfs with huge pages" if shmem_enabled.contains("[deny]") => Some(format!(
            "a tmpfs to which the kernel gives no huge pages ('deny' in {SHMEM_ENABLED})"
        )),
        "tmpfs with huge pages" => None,
        "tmpfs" => Some("a tmpfs that is mounted without huge=always".to_owned()),
        other => Some(format!("{other}, which has no huge pages")),
    }
}

struct Mount<'t> {
    place: &'t str,
    kind: &'t str,
    options: &'t str,
}

impl<'t> Mount<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        Some(Self {
            place: words.next()?,
            kind: words.next()?,
            options: words.next()?,
        })
    }

    fn medium(&self) -> String {
        let huge = self
            .options
            .split(',')
            .any(|option| option == "huge=always");
        match (self.kind, huge) {
            ("tmpfs", true) => "tmpfs with huge pages".into(),
            (kind, _) => kind.into(),
        }
    }
}

/// Linux names the processor's virtualization in its flags; a KVM that needs none of it is made of
/// software.
fn kvm_kind(cpuinfo: &str) -> &'static str {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let has = |flag| flags.split(' ').any(|word| word == flag);
    match (has("vmx"), has("svm")) {
        (true, _) => "Intel VMX",
        (_, true) => "AMD SVM",
        _ => "software, without VMX or SVM",
    }
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
#[path = "host_test.rs"]
mod host_test;

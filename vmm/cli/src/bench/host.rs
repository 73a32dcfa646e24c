//! Facts about the host that the benchmark ran on.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

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

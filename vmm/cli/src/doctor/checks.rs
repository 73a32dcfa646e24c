//! Checks of what every VM needs, and of limits that it meets.

use nvvmm::VmError;

use super::host::{FILE_SIZE, Host, LOCKED_MEMORY, OPEN_FILES, PROCESSES};
use super::{Finding, State};
use crate::output;

/// The first Linux whose userfaultfd write-protects shared memory.
const KERNEL_MIN: (u32, u32) = (5, 19);
/// A VM has some tens of descriptors and threads; a process image may bring hundreds.
const COUNT_WANTED: u64 = 512;
/// The kernel's default. Copy-on-write maps scattered frames one by one.
const MAPPINGS_WANTED: u64 = 65530;

pub(super) fn all(host: &Host) -> Vec<Finding> {
    let mut found = vec![
        architecture(host),
        kernel(host),
        kvm(host),
        virtualisation(host),
        userfaultfd(host),
        runtime_directory(host),
        network(host),
    ];
    found.extend(limits(host));
    found
}

fn architecture(host: &Host) -> Finding {
    match host.tried.architecture.as_str() {
        "x86_64" => Finding::ok("architecture", "x86_64"),
        other => Finding::bad(
            "architecture",
            State::Missing,
            format!("{other}: nvvmm runs on x86-64 only"),
            "use a host with an x86-64 processor",
        ),
    }
}

fn kernel(host: &Host) -> Finding {
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(found) if found < KERNEL_MIN => Finding::bad(
            "kernel",
            State::Missing,
            format!("Linux {release}"),
            "Linux 5.19 or newer is needed",
        ),
        Some(_) => Finding::ok("kernel", format!("Linux {release}")),
        None => Finding::bad(
            "kernel",
            State::Warn,
            format!("an unknown version: '{}'", release.escape_debug()),
            "Linux 5.19 or newer is needed",
        ),
    }
}

/// `6.12` of `6.12.3-arch1`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kvm(host: &Host) -> Finding {
    match &host.tried.kvm {
        Ok(()) => Finding::ok(
            "KVM",
            "/dev/kvm can be opened, and has all that nvvmm needs",
        ),
        Err(error) => lacking(host, "KVM", "/dev/kvm", error),
    }
}

/// A failure as the start of a VM tells it; with the exact command where a permission is missing.
fn lacking(host: &Host, check: &'static str, device: &str, error: &VmError) -> Finding {
    let finding = Finding::failed(check, State::Missing, error);
    if !host.exists(device) || host.is_open_to_us(device) {
        return finding;
    }
    let join = |group: &str| format!("sudo usermod -aG {group} $USER, then log in again");
    let remedy = match host.group_of(device) {
        Some(group) => join(&group),
        // scripts/install.sh makes a rule of it.
        None => format!(
            "sudo sh -c 'groupadd -rf kvm; chgrp kvm {device}; chmod 0660 {device}' && {}",
            join("kvm")
        ),
    };
    Finding {
        remedy: Some(remedy),
        ..finding
    }
}

/// Virtualisation that the processor shows; scripts/lib/kvm.sh tells the same kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Virtualisation {
    Vmx,
    Svm,
    None,
}

impl Virtualisation {
    /// Reads the flags of a processor in /proc/cpuinfo, and if it is one of a virtual machine.
    pub(super) fn of(cpuinfo: &str) -> (Self, bool) {
        let flags = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .unwrap_or_default();
        let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
        let kind = match (has("vmx"), has("svm")) {
            (true, _) => Self::Vmx,
            (_, true) => Self::Svm,
            _ => Self::None,
        };
        (kind, has("hypervisor"))
    }
}

fn virtualisation(host: &Host) -> Finding {
    let check = "virtualisation";
    let (kind, is_nested) = Virtualisation::of(&host.read("/proc/cpuinfo").unwrap_or_default());
    let nested = match is_nested {
        true => ", in a virtual machine (nested)",
        false => "",
    };
    match kind {
        Virtualisation::Vmx => Finding::ok(check, format!("VMX{nested}")),
        Virtualisation::Svm => Finding::ok(check, format!("SVM{nested}")),
        Virtualisation::None if host.exists("/dev/kvm") => Finding::bad(
            check,
            State::Warn,
            format!("/dev/kvm is a software KVM (no vmx or svm){nested}: it cannot boot Linux"),
            "run Linux guests on a host with VMX or SVM; other guests run here",
        ),
        Virtualisation::None => Finding::bad(
            check,
            State::Warn,
            format!("the processor shows no vmx or svm{nested}"),
            "enable virtualisation in the firmware, or on a virtual machine ask for nested \
             virtualisation",
        ),
    }
}

fn userfaultfd(host: &Host) -> Finding {
    let (check, device) = ("userfaultfd", "/dev/userfaultfd");
    if let Err(error) = &host.tried.userfaultfd {
        return lacking(host, check, device, error);
    }
    let all = "it write-protects shared memory";
    if host.is_open_to_us(device) {
        return Finding::ok(check, format!("{device} can be opened, and {all}"));
    }
    if host.tried.is_root {
        return Finding::ok(check, format!("by the system call, as root; {all}"));
    }
    Finding::bad(
        check,
        State::Warn,
        "by the system call, which vm.unprivileged_userfaultfd opens to every user",
        "close it, and give the device a group: sudo sysctl vm.unprivileged_userfaultfd=0 && sudo \
         chgrp kvm /dev/userfaultfd && sudo chmod 0660 /dev/userfaultfd",
    )
}

fn runtime_directory(host: &Host) -> Finding {
    let check = "runtime directory";
    match &host.tried.runtime_dir {
        Ok(()) => Finding::ok(check, "it belongs to this user alone"),
        Err(error) => Finding::failed(check, State::Missing, error),
    }
}

fn network(host: &Host) -> Finding {
    let check = "network";
    match host.tried.passt {
        true => Finding::ok(check, "passt is there, for 'nvvmm run --net'"),
        false => Finding::bad(
            check,
            State::Warn,
            "'nvvmm run --net' needs passt, which is not installed",
            "apt install passt, or dnf install passt; --net tap=NAME needs none",
        ),
    }
}

fn limits(host: &Host) -> Vec<Finding> {
    let limit = |name| host.tried.limits.get(name).copied();
    vec![
        at_least(OPEN_FILES, limit(OPEN_FILES), "ulimit -n 4096"),
        at_least(PROCESSES, limit(PROCESSES), "ulimit -u 4096"),
        at_least(
            "tasks of the cgroup",
            tasks(host),
            "systemctl set-property UNIT TasksMax=4096",
        ),
        file_size(limit(FILE_SIZE)),
        Finding::ok(LOCKED_MEMORY, of_bytes(limit(LOCKED_MEMORY))),
        mappings(host),
    ]
}

fn at_least(check: &'static str, limit: Option<u64>, remedy: &str) -> Finding {
    match limit {
        None => Finding::ok(check, "no limit"),
        Some(limit) if limit < COUNT_WANTED => Finding::bad(
            check,
            State::Warn,
            format!("at most {limit}: a VM may not start, or a snapshot fail"),
            remedy,
        ),
        Some(limit) => Finding::ok(check, format!("at most {limit}")),
    }
}

fn of_bytes(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), |bytes| {
        format!("at most {}", output::size(bytes))
    })
}

fn file_size(limit: Option<u64>) -> Finding {
    match limit {
        None => Finding::ok(FILE_SIZE, "no limit"),
        limit => Finding::bad(
            FILE_SIZE,
            State::Warn,
            format!(
                "{}: larger pools and logs cannot be written",
                of_bytes(limit)
            ),
            "ulimit -f unlimited",
        ),
    }
}

fn mappings(host: &Host) -> Finding {
    let (check, file) = ("mappings", "/proc/sys/vm/max_map_count");
    match host.number(file) {
        Some(count) if count < MAPPINGS_WANTED => Finding::bad(
            check,
            State::Warn,
            format!("at most {count} of a process"),
            format!("sudo sysctl vm.max_map_count={MAPPINGS_WANTED}"),
        ),
        Some(count) => Finding::ok(check, format!("at most {count} of a process")),
        None => Finding::ok(check, "unknown"),
    }
}

/// The lowest limit of tasks of this process's cgroup and those above it (cgroups(7)).
fn tasks(host: &Host) -> Option<u64> {
    let groups = host.read("/proc/self/cgroup")?;
    let of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let below = match controllers {
            "" => ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
            _ if controllers.split(',').any(|name| name == "pids") => ["/sys/fs/cgroup/pids"; 2],
            _ => return None,
        };
        let above = std::path::Path::new(path).ancestors();
        let limits = above.flat_map(|group| {
            below.map(|mount| host.number(&format!("{mount}{}/pids.max", group.display())))
        });
        limits.flatten().min()
    };
    groups.lines().filter_map(of).min()
}

//! Checks of the media that pools can be on.

use super::host::Host;
use super::{Finding, State};
use crate::output;

/// The smallest default pool.
const FREE_WANTED_BYTES: u64 = 64 << 20;
const HUGE_PAGE_BYTES: u64 = 2 << 20;

pub(super) fn all(host: &Host) -> Vec<Finding> {
    vec![
        shared_memory(host),
        huge_pages(host),
        persistent_memory(host),
        pool(host),
        fuse(host),
    ]
}

fn shared_memory(host: &Host) -> Finding {
    let (check, directory) = ("/dev/shm", "/dev/shm");
    let remedy = "create pools elsewhere: 'nvvmm pool create FILE --size SIZE', then --pool FILE";
    let Ok(space) = host.space(directory) else {
        return Finding::bad(check, State::Warn, "there is no /dev/shm", remedy);
    };
    let available = memory_available_bytes(host).unwrap_or(u64::MAX);
    let found = format!(
        "{} of {} free, memory for {}",
        output::size(space.free_bytes),
        output::size(space.size_bytes),
        output::size(available)
    );
    match space.free_bytes.min(available) < FREE_WANTED_BYTES {
        true => Finding::bad(check, State::Warn, found, remedy),
        false => Finding::ok(check, found),
    }
}

/// `MemAvailable` of proc_meminfo(5).
fn memory_available_bytes(host: &Host) -> Option<u64> {
    let text = host.read("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn huge_pages(host: &Host) -> Finding {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = |name: &str| host.number(&format!("{directory}/{name}")).unwrap_or(0);
    let found = match (count("free_hugepages"), count("nr_hugepages")) {
        (_, 0) => "none reserved (not needed)".to_owned(),
        (free, all) => format!(
            "{} of {} free",
            output::size(free.saturating_mul(HUGE_PAGE_BYTES)),
            output::size(all.saturating_mul(HUGE_PAGE_BYTES))
        ),
    };
    Finding::ok("huge pages", found)
}

/// File systems with DAX, and devices that take a pool as a whole.
fn persistent_memory(host: &Host) -> Finding {
    let mounts = host.read("/proc/self/mounts").unwrap_or_default();
    let dax = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (directory, options) = (words.nth(1)?, words.nth(1)?);
        let is_dax = options
            .split(',')
            .any(|option| option == "dax" || option == "dax=always");
        is_dax.then(|| directory.to_owned())
    });
    let devices = host.names("/dev", "dax").into_iter();
    let all: Vec<String> = dax
        .chain(devices.map(|name| format!("/dev/{name}")))
        .collect();
    match all.is_empty() {
        true => Finding::ok("persistent memory", "none (not needed)"),
        false => Finding::ok("persistent memory", all.join(" ")),
    }
}

fn pool(host: &Host) -> Finding {
    match &host.tried.pool {
        Ok(Some(path)) => Finding::ok("pool", path.display().to_string()),
        Ok(None) => Finding::ok("pool", "none yet: 'nvvmm run' creates it"),
        Err(error) => Finding::failed("pool", State::Warn, error),
    }
}

fn fuse(host: &Host) -> Finding {
    let (check, device) = ("FUSE", "/dev/fuse");
    if !host.exists(device) {
        return Finding::bad(
            check,
            State::Warn,
            format!("there is no {device}, which 'nvvmm pool mount' needs"),
            "load the kernel's module: modprobe fuse",
        );
    }
    if host.tried.is_root || host.tried.fusermount {
        return Finding::ok(check, format!("{device} is there"));
    }
    Finding::bad(
        check,
        State::Warn,
        "'nvvmm pool mount' needs fusermount3 for users",
        "run as root, or install fusermount3 (package fuse3)",
    )
}

//! The agent as the first process of a small guest: mounts file systems, starts the loopback
//! device, loads drivers, and reaps orphans.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::sys;

/// The drivers of a small guest: names of files in the same directory, in the order in which they
/// are loaded.
const MODULES: &str = "/modules/list";

/// Search path of programs; the kernel gives its first process no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file system of the kernel's own.
struct Mount {
    kind: &'static CStr,
    /// Its place below the root.
    place: &'static str,
    flags: libc::c_ulong,
    options: &'static CStr,
}

impl Mount {
    const fn new(kind: &'static CStr, place: &'static str, options: &'static CStr) -> Self {
        Self {
            kind,
            place,
            flags: 0,
            options,
        }
    }

    /// One in memory, for files of programs.
    const fn in_memory(place: &'static str, options: &'static CStr) -> Self {
        Self {
            flags: libc::MS_NOSUID | libc::MS_NODEV,
            ..Self::new(c"tmpfs", place, options)
        }
    }
}

/// File systems that programs expect, in the order in which they are mounted.
const MOUNTS: [Mount; 7] = [
    Mount::new(c"proc", "proc", c""),
    Mount::new(c"sysfs", "sys", c""),
    Mount::new(c"devtmpfs", "dev", c"mode=755"),
    Mount::new(c"devpts", "dev/pts", c"mode=620,ptmxmode=666,gid=5"),
    // POSIX shared memory and semaphores (shm_open, sem_open).
    Mount::in_memory("dev/shm", c"mode=1777"),
    Mount::in_memory("run", c"mode=755"),
    Mount::in_memory("tmp", c"mode=1777"),
];

/// Links in /dev that the kernel does not make.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Prepares the guest, has another agent serve the host, and switches the machine off when that
/// ends.
///
/// # Errors
/// The other process cannot be started.
pub fn run() -> io::Result<()> {
    for failure in prepare(Path::new("/")) {
        eprintln!("nvvmm-agent: {failure}");
    }
    if let Err(error) = sys::raise_loopback() {
        eprintln!("nvvmm-agent: cannot start the loopback device: {error}");
    }
    load_modules();
    // A process of its own: one that reaps all children would take the programs' status from
    // those who wait for it.
    let agent = Command::new("/proc/self/exe")
        .env("PATH", PATH)
        .spawn()?
        .id();
    while sys::reap_any()? != agent {}
    sys::power_off()
}

/// Mounts what is not mounted yet, and makes the links of /dev, below `root`. Returns what failed.
fn prepare(root: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    for mount in &MOUNTS {
        let place = root.join(mount.place);
        let mounted = fs::create_dir_all(&place).and_then(|()| {
            if is_mount_point(&place)? {
                return Ok(());
            }
            sys::mount(mount.kind, &c_path(&place)?, mount.flags, mount.options)
        });
        if let Err(error) = mounted {
            failures.push(format!("cannot mount {}: {error}", place.display()));
        }
    }
    for (name, target) in LINKS {
        let link = root.join("dev").join(name);
        match symlink(target, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                failures.push(format!("cannot make {}: {error}", link.display()));
            }
            _ => {}
        }
    }
    failures
}

/// True if another file system is mounted there than above it.
fn is_mount_point(place: &Path) -> io::Result<bool> {
    let above = place.parent().unwrap_or(place);
    Ok(fs::metadata(place)?.dev() != fs::metadata(above)?.dev())
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn load_modules() {
    let Ok(list) = fs::read_to_string(MODULES) else {
        return;
    };
    let directory = Path::new(MODULES).with_file_name("");
    for name in list.lines() {
        let loaded = File::open(directory.join(name)).and_then(|file| sys::load_module(&file));
        if let Err(error) = loaded {
            eprintln!("nvvmm-agent: cannot load {name}: {error}");
        }
    }
}

#[cfg(test)]
#[path = "first_process_test.rs"]
mod first_process_test;

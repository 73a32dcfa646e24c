//! The host as the checks see it: files below a root directory, and what was tried.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, Group, access, geteuid};
use nvvmm::VmError;
use nvvmm::control::RuntimeDir;
use nvvmm::vm::{check_kvm, check_userfaultfd};

use crate::args::PoolOption;
use crate::{pool_path, sys};

/// A host. Tests have one in a directory of their own.
pub struct Host {
    /// The directory that `/` means.
    pub root: PathBuf,
    /// Results of attempts, which no file shows.
    pub tried: Tried,
}

/// Results of attempts by this user.
pub struct Tried {
    pub architecture: String,
    pub is_root: bool,
    pub kvm: Result<(), VmError>,
    pub userfaultfd: Result<(), VmError>,
    pub runtime_dir: Result<(), VmError>,
    /// The default pool, or the one in the environment.
    pub pool: Result<Option<PathBuf>, VmError>,
    /// ABI of Landlock; 0 without it.
    pub landlock: u32,
    /// Soft limits; a limit that is absent has no bound.
    pub limits: BTreeMap<&'static str, u64>,
    /// A mount helper for users was found.
    pub fusermount: bool,
    /// passt was found.
    pub passt: bool,
}

/// Limits of this process that a VM meets, by the names that ulimit(1) has for them.
const LIMITS: [(&str, Resource); 4] = [
    (OPEN_FILES, Resource::RLIMIT_NOFILE),
    (PROCESSES, Resource::RLIMIT_NPROC),
    (FILE_SIZE, Resource::RLIMIT_FSIZE),
    (LOCKED_MEMORY, Resource::RLIMIT_MEMLOCK),
];
pub const OPEN_FILES: &str = "open files";
pub const PROCESSES: &str = "processes";
pub const FILE_SIZE: &str = "file size";
pub const LOCKED_MEMORY: &str = "locked memory";

/// Space of a file system.
pub struct Space {
    pub size_bytes: u64,
    pub free_bytes: u64,
}

impl Host {
    /// The host that this process runs on.
    pub fn this(pool: &PoolOption) -> Self {
        Self {
            root: PathBuf::from("/"),
            tried: Tried {
                architecture: std::env::consts::ARCH.to_owned(),
                is_root: geteuid().is_root(),
                kvm: check_kvm(),
                userfaultfd: check_userfaultfd(),
                runtime_dir: RuntimeDir::of_user().map(drop),
                pool: pool_path::found_if_any(pool),
                landlock: sys::landlock_abi(),
                limits: limits(),
                fusermount: is_in_path("fusermount3"),
                passt: is_in_path("passt"),
            },
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a file, without the line's end.
    pub fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.at(path)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// A number in a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// True if this user may read and write a file.
    pub fn is_open_to_us(&self, path: &str) -> bool {
        access(&self.at(path), AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
    }

    /// The group that may read and write a device, if that is not root's.
    pub fn group_of(&self, path: &str) -> Option<String> {
        let found = std::fs::metadata(self.at(path)).ok()?;
        if found.gid() == 0 || found.mode() & 0o060 != 0o060 {
            return None;
        }
        match Group::from_gid(found.gid().into()) {
            Ok(Some(group)) => Some(group.name),
            _ => Some(found.gid().to_string()),
        }
    }

    /// Names in a directory that begin with `start`, in order.
    pub fn names(&self, directory: &str, start: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(directory));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(start))
            .collect();
        names.sort();
        names
    }

    pub fn space(&self, directory: &str) -> io::Result<Space> {
        let found = statvfs(&self.at(directory))?;
        let unit = found.fragment_size();
        Ok(Space {
            size_bytes: found.blocks().saturating_mul(unit),
            free_bytes: found.blocks_available().saturating_mul(unit),
        })
    }
}

fn limits() -> BTreeMap<&'static str, u64> {
    let soft = |(name, resource): (&'static str, Resource)| {
        let (soft, _) = getrlimit(resource).ok()?;
        (soft != libc::RLIM_INFINITY).then_some((name, soft))
    };
    LIMITS.into_iter().filter_map(soft).collect()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory: PathBuf| is_program(&directory.join(program)))
}

fn is_program(path: &Path) -> bool {
    access(path, AccessFlags::X_OK).is_ok()
}

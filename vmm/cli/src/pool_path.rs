//! Path of the pool that a command uses, and the default pool, created when it is first needed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use nix::unistd::{User, geteuid};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{CHUNK_SIZE_BYTES, Error, Pool};

use super::args::PoolOption;
use super::terminal::tell;
use super::{confine, output};

/// Directory of the default pool: tmpfs on every Linux.
const DEFAULT_DIR: &str = "/dev/shm";
/// Smallest default pool.
const DEFAULT_BYTES_MIN: u64 = 64 << 20;

/// The pool that is meant, with the default one made when it does not exist.
pub fn found_or_made(option: &PoolOption) -> Result<PathBuf, VmError> {
    match &option.pool {
        Some(path) => existing(path),
        None => {
            let path = default_path();
            if !is_own_pool(&path)? {
                make_default(&path)?;
            }
            Ok(path)
        }
    }
}

/// The pool that is meant.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none.
pub fn found(option: &PoolOption) -> Result<PathBuf, VmError> {
    found_if_any(option)?.ok_or_else(|| {
        VmError::new(
            ErrorKind::NotFound,
            format!("there is no pool {} yet", default_path().display()),
        )
        .with_remedy(
            "'nvvmm run' creates it; or give the path of another pool with --pool or NVVMM_POOL",
        )
    })
}

/// The pool that is meant; `None` when that is the default pool and nobody has needed it yet.
pub fn found_if_any(option: &PoolOption) -> Result<Option<PathBuf>, VmError> {
    match &option.pool {
        Some(path) => existing(path).map(Some),
        None => {
            let path = default_path();
            Ok(is_own_pool(&path)?.then_some(path))
        }
    }
}

/// Opens the pool at `path`; an error that does not say so itself names the pool.
pub fn open(path: &Path) -> Result<Arc<Pool>, VmError> {
    Pool::open(path).map_err(|e| {
        let named = !matches!(e, Error::Damaged { .. } | Error::Version { .. });
        let error = VmError::from(e);
        if named {
            error
        } else {
            VmError {
                message: format!("{}: {}", path.display(), error.message),
                ..error
            }
        }
    })
}

/// Opens the pool at `path` in a process that is confined to it from now on.
pub fn open_confined(path: &Path) -> Result<Arc<Pool>, VmError> {
    confine::to_pool(path)?;
    open(path)
}

fn existing(path: &Path) -> Result<PathBuf, VmError> {
    fs::metadata(path).map_err(|e| {
        VmError::io(format_args!("open the pool {}", path.display()), &e).with_remedy(format!(
            "create one with 'nvvmm pool create {} --size 2G'",
            path.display()
        ))
    })?;
    std::path::absolute(path).map_err(|e| VmError::io("find the pool", &e))
}

/// `/dev/shm/nvvmm-<user>.pool`.
fn default_path() -> PathBuf {
    let uid = geteuid();
    let user = match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    };
    Path::new(DEFAULT_DIR).join(format!("nvvmm-{user}.pool"))
}

/// Tells if the default pool exists. Everyone can make files in its directory, so it must be this
/// user's.
fn is_own_pool(path: &Path) -> Result<bool, VmError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(VmError::io(
            format_args!("look for the pool {}", path.display()),
            &e,
        )),
        Ok(found) if found.is_file() && found.uid() == geteuid().as_raw() => Ok(true),
        Ok(_) => Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "{} is not your pool: it belongs to another user, or it is not a file",
                path.display()
            ),
        )
        .with_remedy("give the path of another pool with --pool or NVVMM_POOL")),
    }
}

fn make_default(path: &Path) -> Result<(), VmError> {
    let remedy = "create a pool elsewhere with 'nvvmm pool create', and give its path with --pool \
                  or NVVMM_POOL";
    let dir = path.parent().unwrap_or(Path::new(DEFAULT_DIR));
    let medium = statvfs(dir).map_err(|e| {
        VmError::io(
            format_args!("find out the space on {}", dir.display()),
            &e.into(),
        )
        .with_remedy(remedy)
    })?;
    let medium_bytes = medium
        .blocks_available()
        .saturating_mul(medium.fragment_size());
    let size_bytes = default_size_bytes(medium_bytes.min(memory_available_bytes()));
    match super::pool_commands::make(path, size_bytes, false) {
        Ok(()) => {}
        // Another command was faster.
        Err(e) if e.kind == ErrorKind::Refused && is_own_pool(path)? => return Ok(()),
        Err(e) => return Err(e.with_remedy(remedy)),
    }
    tell(&format!(
        "nvvmm: made the pool {} of {} (it uses memory only for data that it contains)\n",
        path.display(),
        output::size(size_bytes)
    ));
    Ok(())
}

/// Half of what is available, in whole chunks.
fn default_size_bytes(available_bytes: u64) -> u64 {
    (available_bytes / 2 / CHUNK_SIZE_BYTES * CHUNK_SIZE_BYTES).max(DEFAULT_BYTES_MIN)
}

/// Memory that the host can give without swapping: tmpfs may be larger. Unlimited when it is not
/// known.
fn memory_available_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| memory_available_of(&text))
        .unwrap_or(u64::MAX)
}

/// `MemAvailable` of /proc/meminfo (proc_meminfo(5)), which is in KiB.
fn memory_available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
#[path = "pool_path_test.rs"]
mod pool_path_test;

//! Path of the pool that a command uses, and the default pool, created when it is first needed.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, User, faccessat, geteuid};
use nvvmm::error::check_path_is_text;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{CHUNK_SIZE_BYTES, Error, Pool};

use super::args::PoolOption;
use super::terminal::tell;
use super::{confine, output};

/// Directory of the directories of default pools: tmpfs on every Linux. Everyone can write it.
const SHARED_DIR: &str = "/dev/shm";
/// Name of a default pool in its directory.
const POOL_NAME: &str = "default.pool";
/// Smallest default pool.
const DEFAULT_BYTES_MIN: u64 = 64 << 20;
/// Remedy where no default pool can be made.
const ELSEWHERE: &str = "create a pool elsewhere with 'nvvmm pool create', and give its path with \
                         --pool or NVVMM_POOL";

/// The pool that is meant, with the default one made when it does not exist.
pub fn found_or_made(option: &PoolOption) -> Result<PathBuf, VmError> {
    match option.path() {
        Some(path) => existing(&path),
        None => match DefaultPool::of_this_user()? {
            there if there.exists => Ok(there.path),
            none => none.make(),
        },
    }
}

/// The pool that is meant.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none.
pub fn found(option: &PoolOption) -> Result<PathBuf, VmError> {
    if let Some(path) = found_if_any(option)? {
        return Ok(path);
    }
    let path = DefaultPool::of_this_user()?.path;
    Err(VmError::new(
        ErrorKind::NotFound,
        format!("there is no pool {} yet", path.display()),
    )
    .with_remedy(
        "'nvvmm run' creates it; or give the path of another pool with --pool or NVVMM_POOL",
    ))
}

/// The pool that is meant; `None` when that is the default pool and nobody has needed it yet.
pub fn found_if_any(option: &PoolOption) -> Result<Option<PathBuf>, VmError> {
    match option.path() {
        Some(path) => existing(&path).map(Some),
        None => {
            let default = DefaultPool::of_this_user()?;
            Ok(default.exists.then_some(default.path))
        }
    }
}

/// Opens the pool at `path`; an error that does not say so itself names the pool.
pub fn open(path: &Path) -> Result<Arc<Pool>, VmError> {
    Pool::open(path).map_err(|e| {
        let named = !matches!(
            e,
            Error::Damaged { .. } | Error::Version { .. } | Error::PoolLocked { .. }
        );
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
    absolute(path)
}

/// `path` made absolute. It must be text then, also the working directory.
pub fn absolute(path: &Path) -> Result<PathBuf, VmError> {
    let path = std::path::absolute(path).map_err(|e| VmError::io("find the pool", &e))?;
    check_path_is_text("the pool", &path)?;
    Ok(path)
}

/// Checks that the default pool, which does not exist, can be made. Makes nothing.
///
/// # Errors
/// Its place cannot be written by this user, or has too little space.
pub fn check_default_place() -> Result<(), VmError> {
    DefaultPool::of_this_user()?.check_place()
}

/// The default pool of a user, where it is or where it is to be.
///
/// Everyone can make files in [`SHARED_DIR`], so it is in a directory there that only its owner
/// can write: the first of these that there is, or the second, which is made.
/// 1. The file `nvvmm-<user>.pool` of older programs, if it is the user's own.
/// 2. `default.pool` in the directory `nvvmm-<uid>`, if that is the user's own.
/// 3. `default.pool` in a directory of the user's own whose name begins with `nvvmm-<uid>.`: for
///    when another user has taken the name before.
struct DefaultPool {
    shared: PathBuf,
    uid: u32,
    path: PathBuf,
    exists: bool,
}

impl DefaultPool {
    fn of_this_user() -> Result<Self, VmError> {
        let uid = geteuid();
        let user = match User::from_uid(uid) {
            Ok(Some(user)) => user.name,
            _ => uid.to_string(),
        };
        Self::of(Path::new(SHARED_DIR), &user, uid.as_raw())
    }

    fn of(shared: &Path, user: &str, uid: u32) -> Result<Self, VmError> {
        let old = shared.join(format!("nvvmm-{user}.pool"));
        let is_old = is_own_pool(&old, uid)?;
        let directory = match own_directory(shared, uid)? {
            _ if is_old => None,
            found => Some(found.unwrap_or_else(|| shared.join(directory_name(uid)))),
        };
        let path = directory.map_or(old, |directory| directory.join(POOL_NAME));
        Ok(Self {
            exists: is_old || is_own_pool(&path, uid)?,
            shared: shared.to_owned(),
            uid,
            path,
        })
    }

    fn check_place(&self) -> Result<(), VmError> {
        let directory = own_directory(&self.shared, self.uid)?;
        let directory = directory.as_deref().unwrap_or(&self.shared);
        let failed = |e: Errno| {
            let text = format_args!("make a pool in {}", directory.display());
            VmError::io(text, &e.into()).with_remedy(ELSEWHERE)
        };
        // By the effective user: root may ask for another one.
        let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(AT_FDCWD, directory, wanted, AtFlags::AT_EACCESS).map_err(failed)?;
        let medium = statvfs(directory).map_err(failed)?;
        let free_bytes = { medium.blocks_available() }.saturating_mul(medium.fragment_size());
        let free_bytes = free_bytes.min(memory_available_bytes());
        if free_bytes >= DEFAULT_BYTES_MIN {
            return Ok(());
        }
        Err(VmError::new(
            ErrorKind::PoolFull,
            format!(
                "there is memory for {} in {}, and the smallest default pool has {}",
                output::size(free_bytes),
                directory.display(),
                output::size(DEFAULT_BYTES_MIN)
            ),
        )
        .with_remedy(ELSEWHERE))
    }

    /// Makes the pool, unless another command was faster. Returns its path.
    fn make(self) -> Result<PathBuf, VmError> {
        let failed = |e: VmError| e.with_remedy(ELSEWHERE);
        let path = make_own_directory(&self.shared, self.uid)
            .map_err(failed)?
            .join(POOL_NAME);
        let medium = statvfs(&self.shared).map_err(|e| {
            let shared = self.shared.display();
            failed(VmError::io(
                format_args!("find out the space on {shared}"),
                &e.into(),
            ))
        })?;
        let medium_bytes = medium
            .blocks_available()
            .saturating_mul(medium.fragment_size());
        let size_bytes = default_size_bytes(medium_bytes.min(memory_available_bytes()));
        match super::pool_commands::make(&path, size_bytes, false) {
            Ok(()) => {}
            Err(e) if e.kind == ErrorKind::Refused && is_own_pool(&path, self.uid)? => {
                return Ok(path);
            }
            Err(e) => return Err(failed(e)),
        }
        tell(&format!(
            "nvvmm: made the pool {} of {} (it uses memory only for data that it contains)\n",
            path.display(),
            output::size(size_bytes)
        ));
        Ok(path)
    }
}

fn directory_name(uid: u32) -> String {
    format!("nvvmm-{uid}")
}

fn looked_at(path: &Path) -> Result<Option<fs::Metadata>, VmError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VmError::io(
            format_args!("look for the pool {}", path.display()),
            &e,
        )),
    }
}

/// True if there is a file of this user. What others put there is no pool to use.
fn is_own_pool(path: &Path, uid: u32) -> Result<bool, VmError> {
    Ok(looked_at(path)?.is_some_and(|found| found.is_file() && found.uid() == uid))
}

/// True if there is a directory that only this user can write.
fn is_own_directory(path: &Path, uid: u32) -> Result<bool, VmError> {
    let others_write = 0o022;
    Ok(looked_at(path)?.is_some_and(|found| {
        found.is_dir() && found.uid() == uid && found.mode() & others_write == 0
    }))
}

/// The user's directory of default pools, if there is one.
fn own_directory(shared: &Path, uid: u32) -> Result<Option<PathBuf>, VmError> {
    let first = shared.join(directory_name(uid));
    if is_own_directory(&first, uid)? {
        return Ok(Some(first));
    }
    let prefix = format!("{}.", directory_name(uid));
    let entries = fs::read_dir(shared)
        .map_err(|e| VmError::io(format_args!("look for a pool in {}", shared.display()), &e))?;
    let mut others: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    others.sort();
    for other in others {
        // One that is removed meanwhile is none.
        if is_own_directory(&other, uid)? {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// The user's directory of default pools, made if there is none.
fn make_own_directory(shared: &Path, uid: u32) -> Result<PathBuf, VmError> {
    let failed = |e: io::Error| {
        VmError::io(
            format_args!("make a directory for a pool in {}", shared.display()),
            &e,
        )
    };
    for name in [directory_name(uid), random_name(uid).map_err(failed)?] {
        if let Some(found) = own_directory(shared, uid)? {
            return Ok(found);
        }
        let path = shared.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
            // The umask may have taken away bits, but gives none.
            Ok(()) => return Ok(path),
        }
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}

/// A name that nobody can take before.
fn random_name(uid: u32) -> io::Result<String> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let number = u64::from_ne_bytes(bytes);
    Ok(format!("{}.{number:016x}", directory_name(uid)))
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

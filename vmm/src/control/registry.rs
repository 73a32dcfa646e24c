//! The registry of running VMs: a private directory with a few files per VM.
//!
//! | file             | what                                                        |
//! |------------------|-------------------------------------------------------------|
//! | `<name>.lock`    | locked (flock) by the VM process for as long as it lives    |
//! | `<name>.json`    | [`Record`]: who it is                                       |
//! | `<name>.sock`    | control socket                                              |
//! | `<name>.console` | console socket                                              |
//! | `<name>.vsock`   | where programs of the host get streams to the guest         |
//! | `<name>.vsock_512` | where the guest's agent gets its stream to the VM process |
//! | `<name>.log`     | what a detached VM process wrote; kept until the name is used again |
//! | `<name>.log.1`   | what it wrote before that, once the log was full            |
//! | `<name>.record`  | how the VM was started, and how it ended ([`super::life`])  |
//! | `<name>.output`  | the latest output of its console                            |
//! | `<name>.*.before` | the same of the VM before, until this one's guest runs     |
//! | `.lock`          | held for moments by whoever changes the registry            |
//!
//! The kernel drops a lock however its holder dies, so an entry whose lock is free is what a killed
//! VM left behind, and whoever looks next removes it. What is kept of a VM that has ended is the
//! matter of [`super::past`]. Lock order: `.lock`, then `<name>.lock`; the latter is never waited
//! for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use nvvmm_snapshot::{ProcessText, WaitLimit};

use super::past::Departure;
use super::runtime_paths::remove_if_there;
pub use super::runtime_paths::{Record, VmRuntimePaths};
use super::unlisted;
use crate::error::{ErrorKind, VmError, check_path_is_text};
use crate::sys::peer::{NamedProcess, PeerError, flock_holder};

/// Longest name of a VM, in bytes; leaves room for the socket's path in `sun_path`.
pub const VM_NAME_BYTES_MAX: usize = 64;
/// Longest path that a unix socket address can hold (`sun_path` without its NUL, unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Time between the first two tries to lock the registry. It doubles up to the longest one.
const LOCK_POLL_FIRST: Duration = Duration::from_micros(50);
const LOCK_POLL: Duration = Duration::from_millis(1);

/// Checks a VM name: `[A-Za-z0-9._-]`, not starting with `.` or `-`, at most [`VM_NAME_BYTES_MAX`]
/// bytes.
pub fn check_vm_name(name: &str) -> Result<(), VmError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let fits = (1..=VM_NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(allowed) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Usage,
        format!("'{}' cannot be the name of a VM", name.escape_debug()),
    )
    .with_remedy(format!(
        "use 1 to {VM_NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ - and start with a \
             letter, a digit or _"
    )))
}

/// A VM process that lives.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Files of the VM.
    pub paths: VmRuntimePaths,
    /// Record of the VM process; `None` when it cannot be read.
    pub record: Option<Record>,
    /// Its files were removed under it: no command reaches it ([`super::unlisted`]).
    pub is_unlisted: bool,
}

impl Entry {
    /// The VM process, by its lock on the name: the kernel says whose it is.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn process(&self) -> Result<NamedProcess, PeerError> {
        match self.is_unlisted {
            true => unlisted::process_of(&self.paths.name),
            false => NamedProcess::locking(&self.paths.lock.metadata()?),
        }
    }
}

/// Choice of a VM's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChoice {
    /// The user's.
    Given(String),
    /// The first free one of `vm-1`, `vm-2`, ...
    MadeUp,
}

/// A name that this process holds. Dropping it removes the entry.
#[derive(Debug)]
pub struct Claim {
    dir: RuntimeDir,
    paths: VmRuntimePaths,
    _lock: Flock<File>,
}

impl Claim {
    /// The files of the VM that holds this name.
    pub fn paths(&self) -> &VmRuntimePaths {
        &self.paths
    }

    /// The directory of the files.
    pub fn directory(&self) -> &RuntimeDir {
        &self.dir
    }

    /// Keeps the name until this process ends. Another process has removed the files.
    pub fn keep_without_files(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without the registry's lock the removal is still right, another process just may see half
        // of it.
        let _changing = self.dir.change();
        self.paths.remove_files(Departure::InOrder);
    }
}

/// The directory with the entries of one user's VMs.
#[derive(Clone, Debug)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// The user's directory. Made when it does not exist.
    pub fn of_user() -> Result<Self, VmError> {
        Self::at(&Self::path_of_user())
    }

    /// Path of the user's directory: `$NVVMM_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/nvvmm`, else
    /// `/run/nvvmm` for root, else `/tmp/nvvmm-<uid>`. It need not exist.
    pub fn path_of_user() -> PathBuf {
        let from_env = |key: &str| {
            std::env::var_os(key)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        match (from_env("NVVMM_RUNTIME_DIR"), from_env("XDG_RUNTIME_DIR")) {
            (Some(own), _) => own,
            (None, Some(xdg)) => xdg.join("nvvmm"),
            (None, None) if geteuid().is_root() => PathBuf::from("/run/nvvmm"),
            (None, None) => PathBuf::from(format!("/tmp/nvvmm-{}", geteuid())),
        }
    }

    /// The directory at `path`, made when it does not exist; refused when others could write to it.
    pub fn at(path: &Path) -> Result<Self, VmError> {
        let path =
            std::path::absolute(path).map_err(|e| VmError::io("find the runtime directory", &e))?;
        check_path_is_text("the runtime directory", &path)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(VmError::io(
                    format_args!("make the runtime directory {}", path.display()),
                    &e,
                )
                .with_remedy("set NVVMM_RUNTIME_DIR to a directory of your own"));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&path)
            .map_err(|e| VmError::io(format_args!("look at {}", path.display()), &e))?;
        let refuse = |kind, why: &str, remedy: String| {
            Err(VmError::new(
                kind,
                format!("the runtime directory {} {why}", path.display()),
            )
            .with_remedy(remedy))
        };
        if !found.is_dir() {
            return refuse(
                ErrorKind::Usage,
                "is not a directory",
                "set NVVMM_RUNTIME_DIR to a directory of your own".into(),
            );
        }
        if found.uid() != geteuid().as_raw() {
            return refuse(
                ErrorKind::Denied,
                &format!("belongs to another user (uid {})", found.uid()),
                "set NVVMM_RUNTIME_DIR to a directory of your own".into(),
            );
        }
        if found.mode() & 0o077 != 0 {
            return refuse(
                ErrorKind::Refused,
                &format!("is open to other users (mode {:o})", found.mode() & 0o777),
                format!("chmod 700 {}", path.display()),
            );
        }
        Ok(Self { path })
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the files of a VM that ends. Its process still holds the name.
    pub fn remove_entry(&self, paths: &VmRuntimePaths) {
        // As when a claim is dropped, removing without the registry's lock is right, too.
        let _changing = self.change();
        paths.remove_files(Departure::InOrder);
    }

    /// Paths of the files of `name`.
    pub fn paths(&self, name: &str) -> VmRuntimePaths {
        VmRuntimePaths::new(&self.path, name)
    }

    /// Takes a name for this process.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when a living VM has the name; [`ErrorKind::Usage`] for a name that
    /// cannot be one.
    pub fn claim(&self, choice: &NameChoice, pool: &Path) -> Result<Claim, VmError> {
        let _changing = self.change()?;
        match choice {
            NameChoice::Given(name) => self
                .claim_name(name, pool)?
                .ok_or_else(|| self.name_taken(name)),
            NameChoice::MadeUp => {
                for number in 1_u32.. {
                    // What is kept of a VM does not go for a name that nobody chose.
                    if self.paths(&format!("vm-{number}")).life.exists() {
                        continue;
                    }
                    if let Some(claim) = self.claim_name(&format!("vm-{number}"), pool)? {
                        return Ok(claim);
                    }
                }
                Err(VmError::new(
                    ErrorKind::Refused,
                    "every made-up name is taken",
                ))
            }
        }
    }

    /// All living VMs by name; entries that killed VMs left are removed.
    pub fn entries(&self) -> Result<Vec<Entry>, VmError> {
        let mut entries = self.listed()?;
        let is_listed = |name: &str| entries.iter().any(|entry| entry.paths.name == name);
        let unlisted = unlisted::vms(&self.path, |name| !is_listed(name));
        entries.extend(unlisted.iter().map(|name| Entry {
            paths: self.paths(name),
            record: None,
            is_unlisted: true,
        }));
        entries.sort_by(|one, other| one.paths.name.cmp(&other.paths.name));
        Ok(entries)
    }

    fn listed(&self) -> Result<Vec<Entry>, VmError> {
        let _changing = self.change()?;
        let listing = fs::read_dir(&self.path)
            .map_err(|e| VmError::io(format_args!("list {}", self.path.display()), &e))?;
        let mut names: Vec<String> = listing
            .filter_map(|item| item.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_suffix(".lock")?.to_owned()))
            .filter(|name| check_vm_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names.iter().filter_map(|name| self.living(name)).collect())
    }

    /// The living VM of that name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], with the names that there are.
    pub fn find(&self, name: &str) -> Result<Entry, VmError> {
        check_vm_name(name)?;
        let entries = self.entries()?;
        if let Some(entry) = entries.iter().find(|e| e.paths.name == name) {
            return Ok(entry.clone());
        }
        if self.life(name).is_some() {
            return Err(VmError::new(
                ErrorKind::NotFound,
                format!("no VM '{name}' is running: it has ended"),
            )
            .with_remedy(format!(
                "'nvvmm ps --all' says how, 'nvvmm start {name}' starts it again"
            )));
        }
        let names: Vec<&str> = entries.iter().map(|e| e.paths.name.as_str()).collect();
        let remedy = match names.as_slice() {
            [] => "start one with 'nvvmm run' or 'nvvmm restore'".to_owned(),
            names => format!("one of the running VMs: {}", names.join(", ")),
        };
        Err(
            VmError::new(ErrorKind::NotFound, format!("no VM '{name}' is running"))
                .with_remedy(remedy),
        )
    }

    /// Tells if a VM process holds `name` now.
    pub fn is_living(&self, name: &str) -> Result<bool, VmError> {
        let _changing = self.change()?;
        Ok(self.living(name).is_some())
    }

    /// Serialises changes of the registry between processes.
    pub(super) fn change(&self) -> Result<Flock<File>, VmError> {
        let path = self.path.join(".lock");
        let file = open_lock(&path)
            .map_err(|e| VmError::io(format_args!("open {}", path.display()), &e))?;
        lock_in_time(file, &path)
    }

    /// `None` when a living VM has the name. The caller holds the registry's lock.
    fn claim_name(&self, name: &str, pool: &Path) -> Result<Option<Claim>, VmError> {
        self.check_names(&[NameChoice::Given(name.to_owned())])?;
        self.claim_checked(name, pool)
    }

    /// A name that no VM has; one that is given was [checked](Self::check_names). The caller holds
    /// the registry's lock.
    pub(super) fn free_name(&self, choice: &NameChoice) -> Result<String, VmError> {
        match choice {
            NameChoice::Given(name) => match self.living(name) {
                None => Ok(name.clone()),
                Some(_) => Err(self.name_taken(name)),
            },
            NameChoice::MadeUp => {
                let mut names = (1_u32..).map(|number| format!("vm-{number}"));
                let is_free =
                    |name: &String| !self.paths(name).life.exists() && self.living(name).is_none();
                names
                    .find(is_free)
                    .ok_or_else(|| VmError::new(ErrorKind::Refused, "every made-up name is taken"))
            }
        }
    }

    /// The names can be some, and no VM has one whose files were removed.
    pub(super) fn check_names(&self, choices: &[NameChoice]) -> Result<(), VmError> {
        let given = choices.iter().filter_map(|choice| match choice {
            NameChoice::Given(name) => Some(name.as_str()),
            NameChoice::MadeUp => None,
        });
        let given: Vec<&str> = given.collect();
        given.iter().try_for_each(|name| check_vm_name(name))?;
        let mut free = given.iter().filter(|name| !self.paths(name).lock.exists());
        let is_it = |other: &str| given.contains(&other);
        if free.next().is_none() {
            return Ok(());
        }
        let Some(name) = unlisted::vms(&self.path, is_it).into_iter().next() else {
            return Ok(());
        };
        Err(VmError::new(
            ErrorKind::Refused,
            format!("a VM '{name}' runs, though its files were removed"),
        )
        .with_remedy(format!(
            "end it with 'nvvmm stop {name}', or choose another --name"
        )))
    }

    /// Claims a name that was checked. The caller holds the registry's lock.
    pub(super) fn claim_checked(&self, name: &str, pool: &Path) -> Result<Option<Claim>, VmError> {
        let paths = self.paths(name);
        if paths.agent.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(VmError::new(
                ErrorKind::Usage,
                format!(
                    "the socket path {} is longer than the {SOCKET_PATH_BYTES_MAX} bytes a socket \
                     may have",
                    paths.agent.display()
                ),
            )
            .with_remedy("use a shorter name, or set NVVMM_RUNTIME_DIR to a shorter path"));
        }
        let failed = |e: io::Error| VmError::io(format_args!("claim the name '{name}'"), &e);
        let file = open_lock(&paths.lock).map_err(failed)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(failed(e.into())),
        };
        for stale in [&paths.control, &paths.console, &paths.vsock, &paths.agent] {
            remove_if_there(stale).map_err(failed)?;
        }
        if let Err(e) = paths.write_record(std::process::id(), pool) {
            paths.remove_files(Departure::InOrder);
            return Err(failed(e));
        }
        Ok(Some(Claim {
            dir: self.clone(),
            paths,
            _lock: lock,
        }))
    }

    /// The entry of `name` if its process lives; what a dead one left is removed. The caller holds
    /// the registry's lock.
    pub(super) fn living(&self, name: &str) -> Option<Entry> {
        let paths = self.paths(name);
        let file = OpenOptions::new().read(true).open(&paths.lock).ok()?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_stale) => {
                tracing::info!("VM '{name}' is gone without a word, its entry is removed");
                paths.remove_files(Departure::WithoutWord);
                None
            }
            Err(_) => {
                let record = paths.read_record();
                paths.forget_aside();
                Some(Entry {
                    paths,
                    record,
                    is_unlisted: false,
                })
            }
        }
    }

    pub(super) fn name_taken(&self, name: &str) -> VmError {
        let who = match self.paths(name).read_record() {
            Some(record) => format!("by process {}", record.pid),
            None => "by a process without a record".to_owned(),
        };
        VmError::new(
            ErrorKind::Refused,
            format!("the name '{name}' is taken {who}"),
        )
        .with_remedy(format!(
            "choose another --name, or end that VM with 'nvvmm stop {name}'"
        ))
    }
}

/// Takes the registry's lock, as soon as the process that has it gives it back.
fn lock_in_time(mut file: File, path: &Path) -> Result<Flock<File>, VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("lock {}", path.display()), &e);
    let mut limit = WaitLimit::default();
    let mut pause = LOCK_POLL_FIRST;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
            Err((_, e)) => return Err(failed(e.into())),
        };
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOCK_POLL);
        let found = file.metadata().map_err(failed)?;
        // Its number changes from one holder to the next, and that is progress.
        let holder = flock_holder(&found).unwrap_or_default();
        if limit.is_reached(holder, holder.unwrap_or_default().into()) {
            let who = holder.map_or("a process that cannot be seen here".to_owned(), |pid| {
                ProcessText(pid).to_string()
            });
            return Err(VmError::new(
                ErrorKind::Refused,
                format!("the list of VMs, {}, is locked by {who}", path.display()),
            )
            .with_remedy("let that process go on ('kill -CONT'), or end it"));
        }
    }
}

pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
#[path = "registry_test.rs"]
mod registry_test;

//! VMs that stand by, and how many of them are wanted.
//!
//! A spare VM has the files of any VM, under a name that no VM can have: `.spare-<key>-<pid>`. The
//! key is made of pool and snapshot. So commands about VMs do not see it. Whoever takes it gives
//! its files the name of the new VM, under the registry's lock; sockets, locks and open files stay
//! what they are. `.spare-<key>.order` says how many spare VMs are wanted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nvvmm_snapshot::ProcessState;
use serde::{Deserialize, Serialize};

use super::life::{LifeStart, STATE_BYTES};
use super::registry::{Claim, Entry, NameChoice, RuntimeDir, VmRuntimePaths, open_lock};
use super::runtime_paths::{SUFFIX_LOCK, remove_if_there};
use crate::error::VmError;

/// Beginning of the names of spare VMs.
const PREFIX: &str = ".spare-";
const SUFFIX_ORDER: &str = "order";
const SUFFIX_REFILL: &str = "refill";
/// Prime and start of FNV-1a with 64 bits.
const FNV_PRIME: u64 = 0x0100_0000_01b3;
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Order of spare VMs: so many of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareOrder {
    /// The pool.
    pub pool: PathBuf,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Number of VMs that are to stand by.
    pub count: u32,
}

impl SpareOrder {
    /// Beginning of the names of files about it.
    fn stem(&self) -> String {
        format!("{PREFIX}{}", key(&self.pool, &self.snapshot))
    }

    /// Tells if a spare VM of this name is of this order.
    pub fn has(&self, vm: &str) -> bool {
        vm.strip_prefix(&self.stem())
            .is_some_and(|rest| rest.starts_with('-'))
    }
}

/// Tells if a name is that of a spare VM.
pub fn is_spare(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A name for what a snapshot of a pool is looked up by. The VM compares both itself.
fn key(pool: &Path, snapshot: &str) -> String {
    let bytes = pool.as_os_str().as_encoded_bytes().iter();
    let bytes = bytes.chain(&[0]).chain(snapshot.as_bytes());
    let hash = bytes.fold(FNV_START, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    });
    format!("{hash:016x}")
}

impl RuntimeDir {
    /// Takes a name for a spare VM of this process.
    ///
    /// # Errors
    /// As [`RuntimeDir::claim`].
    pub fn claim_spare(&self, pool: &Path, snapshot: &str) -> Result<Claim, VmError> {
        let name = format!("{PREFIX}{}-{}", key(pool, snapshot), std::process::id());
        let _changing = self.change()?;
        self.claim_checked(&name, pool)?
            .ok_or_else(|| self.name_taken(&name))
    }

    /// All spare VMs that live, by name; what those that were killed left is removed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn spares(&self) -> Result<Vec<Entry>, VmError> {
        let names = self.hidden_with(SUFFIX_LOCK)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let _changing = self.change()?;
        Ok(names.iter().filter_map(|name| self.living(name)).collect())
    }

    /// Tells if there may be a spare VM of this snapshot.
    pub fn may_have_spare(&self, pool: &Path, snapshot: &str) -> bool {
        let stem = format!("{PREFIX}{}-", key(pool, snapshot));
        let names = self.hidden_with(SUFFIX_LOCK).unwrap_or_default();
        names.iter().any(|name| name.starts_with(&stem))
    }

    /// Gives the files of spare VMs of this snapshot the names of new VMs, whose records begin with
    /// `start`, as many as there are. The VM processes do not know it yet: whoever calls this tells
    /// them.
    ///
    /// # Errors
    /// A name is taken, or a file cannot be renamed.
    pub fn take_spares(
        &self,
        (pool, snapshot): (&Path, &str),
        choices: &[NameChoice],
        start: &LifeStart,
    ) -> Result<Vec<VmRuntimePaths>, VmError> {
        let stem = format!("{PREFIX}{}-", key(pool, snapshot));
        let _changing = self.change()?;
        let mut names = self.hidden_with(SUFFIX_LOCK)?;
        names.retain(|name| name.starts_with(&stem));
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.check_names(choices)?;
        let fit = names.iter().filter_map(|name| {
            let entry = self.living(name)?;
            let record = entry.record?;
            let is_stopped = ProcessState::of(record.pid).is_some_and(ProcessState::is_stopped);
            (!is_stopped).then_some((entry.paths, record.pid))
        });
        let mut taken = Vec::new();
        for (choice, (spare, pid)) in choices.iter().zip(fit) {
            let name = self.free_name(choice)?;
            let paths = self.paths(&name);
            let failed = |e: io::Error| VmError::io(format_args!("take over '{name}'"), &e);
            paths.set_aside().map_err(failed)?;
            let start = LifeStart {
                vm: name.clone(),
                pid,
                background: true,
                ..start.clone()
            };
            begin_anew(&spare.life, &start).map_err(failed)?;
            paths.write_record(pid, pool).map_err(failed)?;
            spare.rename_to(&paths).map_err(failed)?;
            taken.push(paths);
        }
        if let Some(paths) = taken.first() {
            self.forget_the_oldest(&paths.name);
        }
        Ok(taken)
    }

    /// Orders of spare VMs.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn spare_orders(&self) -> Result<Vec<SpareOrder>, VmError> {
        let names = self.hidden_with(SUFFIX_ORDER)?;
        let read = |name: &String| {
            let text = fs::read(self.path().join(format!("{name}.{SUFFIX_ORDER}"))).ok()?;
            serde_json::from_slice(&text).ok()
        };
        Ok(names.iter().filter_map(read).collect())
    }

    /// Notes how many spare VMs of a snapshot are wanted; 0 removes the note.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn order_spares(&self, order: &SpareOrder) -> Result<(), VmError> {
        let path = self.path().join(format!("{}.{SUFFIX_ORDER}", order.stem()));
        let failed = |e: io::Error| VmError::io(format_args!("write {}", path.display()), &e);
        let _changing = self.change()?;
        if order.count == 0 {
            let refill = path.with_extension(SUFFIX_REFILL);
            remove_if_there(&refill).map_err(failed)?;
            return remove_if_there(&path).map_err(failed);
        }
        let written = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&written)
            .map_err(failed)?;
        let text = serde_json::to_vec(order).map_err(|e| failed(e.into()))?;
        file.write_all(&text).map_err(failed)?;
        fs::rename(&written, &path).map_err(failed)
    }

    /// The lock of whoever makes spare VMs of an order. `None` when somebody has it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn lock_refill(&self, order: &SpareOrder) -> Result<Option<Flock<File>>, VmError> {
        let path = self
            .path()
            .join(format!("{}.{SUFFIX_REFILL}", order.stem()));
        let failed = |e: io::Error| VmError::io(format_args!("lock {}", path.display()), &e);
        let file = open_lock(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(failed(e.into())),
        }
    }

    /// Names of files of spare VMs with this suffix, without it.
    fn hidden_with(&self, suffix: &str) -> Result<Vec<String>, VmError> {
        let listing = fs::read_dir(self.path())
            .map_err(|e| VmError::io(format_args!("list {}", self.path().display()), &e))?;
        let suffix = format!(".{suffix}");
        let mut names: Vec<String> = listing
            .filter_map(|item| item.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_suffix(&suffix)?.to_owned()))
            .filter(|name| is_spare(name))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Writes the part of a record that does not change. Nobody but the owner of the spare VM's file
/// reads it yet.
fn begin_anew(path: &Path, start: &LifeStart) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let mut text = serde_json::to_vec(start)?;
    text.push(b'\n');
    file.write_all_at(&text, STATE_BYTES as u64)?;
    file.set_len((STATE_BYTES + text.len()) as u64)
}

#[cfg(test)]
#[path = "spares_test.rs"]
mod spares_test;

//! The files of one VM in the registry.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::past::Departure;
use super::spares::is_spare;

const RECORD_VERSION: u32 = 1;
pub(super) const SUFFIX_LOCK: &str = "lock";

/// Paths of the files of one VM. The files need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRuntimePaths {
    /// Name of the VM.
    pub name: String,
    /// Control socket.
    pub control: PathBuf,
    /// Console socket.
    pub console: PathBuf,
    /// Socket of the vsock device.
    pub vsock: PathBuf,
    /// Socket for the guest's agent: streams to this port of the host (crate `nvvmm-protocol`).
    pub agent: PathBuf,
    /// Log of a detached VM process.
    pub log: PathBuf,
    /// The part of the log before `log`.
    pub log_before: PathBuf,
    /// Record of the VM's life ([`super::life::Life`]).
    pub life: PathBuf,
    /// The latest output of its console ([`nvvmm_devices::read_kept_output`]).
    pub output: PathBuf,
    pub(super) record: PathBuf,
    pub(super) lock: PathBuf,
}

impl VmRuntimePaths {
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        let file = |suffix: &str| dir.join(format!("{name}.{suffix}"));
        Self {
            name: name.to_owned(),
            control: file("sock"),
            console: file("console"),
            vsock: file("vsock"),
            agent: file(&format!("vsock_{}", nvvmm_protocol::HOST_PORT)),
            log: file("log"),
            log_before: file("log.1"),
            life: file("record"),
            output: file("output"),
            record: file("json"),
            lock: file(SUFFIX_LOCK),
        }
    }

    /// Device and inode of its lock, while its process lives: no other VM's lock has these.
    ///
    /// # Errors
    /// There is no lock.
    pub fn lock_identity(&self) -> io::Result<(u64, u64)> {
        let found = fs::symlink_metadata(&self.lock)?;
        Ok((found.dev(), found.ino()))
    }

    /// Gives the files the names of another VM, of which there are none but its record. The lock
    /// goes last: with it the VM is there.
    pub(super) fn rename_to(&self, other: &Self) -> io::Result<()> {
        let renamed = [
            (&self.control, &other.control),
            (&self.console, &other.console),
            (&self.vsock, &other.vsock),
            (&self.agent, &other.agent),
            (&self.log, &other.log),
            (&self.log_before, &other.log_before),
            (&self.output, &other.output),
            (&self.life, &other.life),
            (&self.lock, &other.lock),
        ];
        for (from, to) in renamed {
            match fs::rename(from, to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        remove_if_there(&self.record)
    }

    /// Removes what only a living VM has. The lock goes last: without it nobody sees the entry.
    pub(super) fn remove_files(&self, departure: Departure) {
        self.settle(departure);
        for path in [
            &self.control,
            &self.console,
            &self.vsock,
            &self.agent,
            &self.record,
            &self.lock,
        ] {
            if let Err(e) = remove_if_there(path) {
                tracing::warn!("cannot remove {}: {e}", path.display());
            }
        }
        if is_spare(&self.name) {
            // Whoever wanted it has heard why it ended.
            let _ = self.forget();
        }
    }

    /// Writes who the VM is.
    pub(super) fn write_record(&self, pid: u32, pool: &Path) -> io::Result<()> {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            version: RECORD_VERSION,
            name: self.name.clone(),
            pid,
            pool: pool.to_owned(),
            started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        };
        let mut text = serde_json::to_vec(&record)?;
        text.push(b'\n');
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.record)?;
        file.write_all(&text)
    }

    /// Reads who the VM is; `None` when that cannot be read.
    pub(super) fn read_record(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(&self.record).ok()?).ok()?;
        (record.version == RECORD_VERSION).then_some(record)
    }
}

/// Content of `<name>.json` about a VM process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record.
    pub version: u32,
    /// Name of the VM.
    pub name: String,
    /// Process id of the VM process.
    pub pid: u32,
    /// Pool of the VM.
    pub pool: PathBuf,
    /// Time at which the process claimed the name, in milliseconds since 1970.
    pub started_unix_ms: u64,
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

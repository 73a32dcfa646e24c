//! The record of a VM's life: who it was, how it was started, and how it ended.
//!
//! `<name>.record` has two parts. The first [`STATE_BYTES`] are a [`LifeState`], filled up with
//! spaces; the VM process writes it anew through a descriptor that it has from its start. One
//! write of a page is whole or did not happen, also when the process is killed. Behind it is the
//! [`LifeStart`], which does not change.
//!
//! A process that is killed writes nothing: a record that says `running`, without a process that
//! has the name, is that of a VM that was killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Bytes of the part of a record that changes.
pub const STATE_BYTES: usize = 4096;
/// Longest text of a failure that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 2048;
/// Longest arguments that are kept, in bytes.
const ARGUMENTS_BYTES_MAX: usize = 64 << 10;
/// Largest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 1 << 20;
const VERSION: u32 = 1;

/// Facts about a VM that do not change while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeStart {
    /// Version of the record.
    pub version: u32,
    /// Name of the VM.
    pub vm: String,
    /// Number of the VM process, where it was started.
    pub pid: u32,
    /// Time at which the process claimed the name, in nanoseconds since 1970.
    #[serde(with = "digits")]
    pub started_unix_ns: u64,
    /// Path of its pool.
    pub pool: Option<String>,
    /// Snapshot that it was restored from; `None` for one that booted.
    pub snapshot: Option<String>,
    /// Arguments of the command that started it. `None` when they cannot be kept: too long, or no
    /// text.
    pub arguments: Option<Vec<String>>,
    /// Working directory of that command.
    pub directory: Option<String>,
    /// True for a VM in the background, which has a log.
    pub background: bool,
}

impl LifeStart {
    /// The facts of a VM of this process that begins now.
    pub fn now(vm: &str, arguments: Option<Vec<String>>) -> Self {
        let fits = |arguments: &Vec<String>| {
            let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
            bytes <= ARGUMENTS_BYTES_MAX
        };
        Self {
            version: VERSION,
            vm: vm.to_owned(),
            pid: std::process::id(),
            started_unix_ns: unix_ns_now(),
            pool: None,
            snapshot: None,
            arguments: arguments.filter(fits),
            directory: None,
            background: false,
        }
    }
}

/// Phase of a VM's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its guest has not run yet.
    Starting,
    /// Its guest has run.
    Running,
    /// The VM has ended.
    Ended,
}

/// Reason for the end of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest rebooted, and the VM was started with `--on-reboot exit`.
    Rebooted,
    /// The guest took an exception that it cannot handle.
    TripleFault,
    /// Somebody asked for it: `nvvmm stop`, a signal, a key.
    Stopped,
    /// A snapshot ended it.
    Snapshotted,
    /// The VM process ended without a word: killed by a signal, or with its host.
    Killed,
    /// The VM process could not go on.
    Failed,
}

impl End {
    /// The end was wanted, by the guest or by a user.
    pub fn is_in_order(self) -> bool {
        !matches!(self, Self::TripleFault | Self::Killed | Self::Failed)
    }
}

/// Facts about a VM that change while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeState {
    version: u32,
    /// Phase of its life.
    pub phase: Phase,
    /// Reboots of its guest.
    pub reboot_count: u64,
    /// Reason for its end.
    pub end: Option<End>,
    /// The end in words, where there is more to say.
    pub text: Option<String>,
    /// Time of the end, in nanoseconds since 1970. `None` when nobody saw it.
    #[serde(with = "digits_if_any")]
    pub ended_unix_ns: Option<u64>,
}

impl LifeState {
    fn starting() -> Self {
        Self {
            version: VERSION,
            phase: Phase::Starting,
            reboot_count: 0,
            end: None,
            text: None,
            ended_unix_ns: None,
        }
    }

    fn end(&mut self, end: End, text: Option<&str>, ended_unix_ns: Option<u64>) {
        self.phase = Phase::Ended;
        self.end = Some(end);
        self.text = text.map(|text| cut_off(text).to_owned());
        self.ended_unix_ns = ended_unix_ns;
    }

    /// The state as its part of the file.
    fn to_bytes(&self) -> io::Result<[u8; STATE_BYTES]> {
        let mut text = serde_json::to_vec(self)?;
        if text.len() >= STATE_BYTES {
            // Every character of the text took six bytes.
            let without = Self {
                text: None,
                ..self.clone()
            };
            text = serde_json::to_vec(&without)?;
        }
        let mut bytes = [b' '; STATE_BYTES];
        let length = text.len().min(STATE_BYTES - 1);
        bytes[..length].copy_from_slice(&text[..length]);
        bytes[STATE_BYTES - 1] = b'\n';
        Ok(bytes)
    }
}

/// At most [`TEXT_BYTES_MAX`] of `text`.
fn cut_off(text: &str) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(fits);
    &text[..end.unwrap_or_default()]
}

/// The record of a VM as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its beginning.
    pub start: LifeStart,
    /// Its end, or how far it came.
    pub state: LifeState,
}

impl Life {
    /// Reads a record. `None` for a file that is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        let Some((state, start)) = bytes.split_at_checked(STATE_BYTES) else {
            return Ok(None);
        };
        let (state, start) = (serde_json::from_slice(state), serde_json::from_slice(start));
        Ok(match (state, start) {
            (Ok(state), Ok(start)) => Some(Self { start, state }).filter(Self::is_of_this_version),
            _ => None,
        })
    }

    fn is_of_this_version(&self) -> bool {
        self.start.version == VERSION && self.state.version == VERSION
    }

    /// Reason for the end of a VM whose process is known to be gone.
    pub fn end(&self) -> End {
        self.state.end.unwrap_or(End::Killed)
    }

    /// Notes in the record at `path` that the VM was killed, now, unless it says how it ended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_killed(&self, path: &Path) -> io::Result<()> {
        if self.state.phase == Phase::Ended {
            return Ok(());
        }
        let mut state = self.state.clone();
        state.end(End::Killed, None, Some(unix_ns_now()));
        let bytes = state.to_bytes()?;
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(&bytes)
    }
}

/// The record of this process's VM.
#[derive(Debug)]
pub struct LifeFile {
    file: File,
    state: Mutex<LifeState>,
}

impl LifeFile {
    /// Begins a record in the file at `path`, which does not exist.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, start: &LifeStart) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let state = LifeState::starting();
        let mut text = state.to_bytes()?.to_vec();
        serde_json::to_writer(&mut text, start)?;
        text.push(b'\n');
        file.write_all_at(&text, 0)?;
        Ok(Self {
            file,
            state: Mutex::new(state),
        })
    }

    /// The guest runs.
    pub fn running(&self) {
        self.change(|state| state.phase = Phase::Running);
    }

    /// The guest has rebooted so often.
    pub fn rebooted(&self, count: u64) {
        self.change(|state| state.reboot_count = count);
    }

    /// The VM has ended. What was noted first stays.
    pub fn ended(&self, end: End, text: Option<&str>) {
        self.change(|state| {
            if state.phase != Phase::Ended {
                state.end(end, text, Some(unix_ns_now()));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut LifeState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let written = state.to_bytes();
        let written = written.and_then(|bytes| self.file.write_all_at(&bytes, 0));
        if let Err(error) = written {
            tracing::warn!(%error, "the record of the VM is not up to date");
        }
    }
}

fn unix_ns_now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since_1970.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// A number as a string of digits: JSON's numbers have 53 bits in many programs.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The same for one that may be missing.
mod digits_if_any {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(number: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => to.collect_str(number),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let number = text.map(|text| text.parse().map_err(D::Error::custom));
        number.transpose()
    }
}

#[cfg(test)]
#[path = "life_test.rs"]
mod life_test;

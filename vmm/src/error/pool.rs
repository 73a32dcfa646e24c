//! Errors of the pool as errors for the user.

use nvvmm_snapshot::{Durability, Error, ProcessState, ProcessText};

use super::{ErrorKind, VmError};

/// Remedy for a full pool.
pub(crate) const MAKE_SPACE: &str =
    "remove snapshots with 'nvvmm rm', stop VMs, or make the pool larger with 'nvvmm pool grow'";

/// Remedy for a full medium. A larger pool would not help.
const MAKE_SPACE_ON_MEDIUM: &str = "remove other files from the medium ('df' shows its \
     use), make it larger, remove snapshots with 'nvvmm rm', or stop VMs";

impl From<Error> for VmError {
    fn from(error: Error) -> Self {
        Self {
            remedy: remedy_of(&error),
            ..Self::new(kind_of(&error), error.to_string())
        }
    }
}

/// Remedy for a pool error.
fn remedy_of(error: &Error) -> Option<String> {
    Some(match error {
        Error::NotAPool { .. } => "create one with 'nvvmm pool create'".to_owned(),
        Error::Version { .. } => {
            "use the nvvmm version that made the pool, or make a new one".to_owned()
        }
        Error::PoolFull { .. } => MAKE_SPACE.to_owned(),
        Error::NameTaken { name } => {
            format!("choose another name, or remove that one with 'nvvmm rm {name}'")
        }
        Error::NotFound { near, .. } if near.is_empty() => {
            "'nvvmm snapshots' lists the snapshots".to_owned()
        }
        Error::NotFound { near, .. } => {
            format!(
                "similar names: '{}'; 'nvvmm snapshots' lists all",
                near.join("', '")
            )
        }
        Error::Busy { .. } => "stop that VM first, or restore without --once".to_owned(),
        Error::DiskNameTaken { .. } => "choose another name".to_owned(),
        Error::NoDisk { near, .. } if !near.is_empty() => {
            format!("similar names: '{}'", near.join("', '"))
        }
        Error::DiskInUse { .. } => "stop that VM first, or use a copy of the disk".to_owned(),
        Error::NoDisksYet => "stop the other VMs of the pool, and try again".to_owned(),
        Error::TooManyHolders { .. } => "stop a VM first".to_owned(),
        Error::TooManyPins { .. } => {
            "take a snapshot of the VM: afterwards it needs no other snapshot".to_owned()
        }
        Error::TooManySnapshots { .. } => "remove some with 'nvvmm rm'".to_owned(),
        Error::Exists { .. } => {
            "choose another path, or remove that file if it is not needed".to_owned()
        }
        Error::NoSpaceOnMedium { .. } => {
            "use a smaller pool, free space on the medium, or allow it with --overcommit (VMs can \
             then fail when the medium is full)"
                .to_owned()
        }
        Error::MediumFull { .. } => MAKE_SPACE_ON_MEDIUM.to_owned(),
        Error::HoldsPool { .. } => {
            "delete it with 'nvvmm pool delete' if it is not needed".to_owned()
        }
        Error::InUse { .. } => "stop its VMs first".to_owned(),
        Error::PoolLocked { holder, .. } => unlocking(holder.pid(), holder.is_stopped()),
        Error::FixedSize { .. } => {
            "create a larger pool; a pool on a device cannot grow".to_owned()
        }
        Error::NotDurable {
            asked: Durability::Power,
            ..
        } => "use a pool on a disk, or on persistent memory with a persistence domain, or ask for \
             a lower durability"
            .to_owned(),
        Error::NotDurable { .. } => {
            "use a pool on a disk or on persistent memory, or ask for a lower durability".to_owned()
        }
        _ => return remedy_of_stream(error),
    })
}

impl VmError {
    /// Adds the state of the process that has the pool locked, when a VM process says so: it may be
    /// confined, and then sees no other process.
    #[must_use]
    pub fn with_holder_seen(self) -> Self {
        let pid = self.message.strip_prefix(LOCKED_BY);
        let Some(pid) = pid.and_then(|pid| pid.parse().ok()) else {
            return self;
        };
        let is_stopped = ProcessState::of(pid).is_some_and(ProcessState::is_stopped);
        let who = ProcessText(pid).to_string();
        let message = LOCKED_BY.replace("process ", &who);
        Self {
            message,
            remedy: Some(unlocking(Some(pid), is_stopped)),
            ..self
        }
    }
}

/// Beginning of [`Error::PoolLocked`]'s text. Only a number follows where nothing is seen of the
/// process.
const LOCKED_BY: &str = "the pool is locked by process ";

/// Remedy for a pool that another process keeps locked.
fn unlocking(pid: Option<u32>, is_stopped: bool) -> String {
    match pid {
        Some(pid) if is_stopped => format!(
            "'kill -CONT {pid}' lets that process go on, 'kill -KILL {pid}' ends it; the pool \
             stays whole"
        ),
        Some(pid) => {
            format!("wait for that process, or end it with 'kill {pid}'; the pool stays whole")
        }
        None => "wait for that process, or end it; the pool stays whole".to_owned(),
    }
}

/// Remedy for an error of sending or receiving.
fn remedy_of_stream(error: &Error) -> Option<String> {
    Some(match error {
        Error::Incomplete { name } => {
            format!(
                "receive it again (data that has arrived is not stored twice), or remove it \
                     with 'nvvmm rm {name}'"
            )
        }
        Error::BeingReceived { .. } => {
            "wait for it, or receive under another name with --name".to_owned()
        }
        Error::NotAStream => "give it the output of 'nvvmm send'".to_owned(),
        Error::StreamVersion { .. } => "use the nvvmm version that wrote it".to_owned(),
        Error::StreamCut | Error::Interrupted => {
            "send it again from its start: data that has arrived is not stored twice".to_owned()
        }
        Error::StreamDamaged { .. } => "send it again; nothing was kept".to_owned(),
        Error::StreamSealed => "give its key with --decrypt FILE".to_owned(),
        Error::StreamNotSealed => {
            "leave out --decrypt, but only if nobody else could change the stream on its way"
                .to_owned()
        }
        Error::WrongKey => "use the key file that 'nvvmm send' used".to_owned(),
        Error::NoBase { base, .. } => {
            format!(
                "receive '{base}' first, or send the snapshot without --since; if it was taken \
                 here, name it with --onto"
            )
        }
        Error::WrongBase { .. } => {
            "leave out --onto, or name the snapshot that the stream builds on".to_owned()
        }
        Error::BaseUnproven { base, .. } => {
            format!("name the snapshot with --onto, if this pool has '{base}'")
        }
        Error::NoRoom { .. } => {
            "remove snapshots with 'nvvmm rm', stop VMs, or make the pool larger with 'nvvmm pool \
             grow'"
                .to_owned()
        }
        Error::OverLimit { .. } => "allow more with --limit".to_owned(),
        _ => return remedy_of_place(error),
    })
}

/// Remedy for a place where no pool can be, or is any more.
fn remedy_of_place(error: &Error) -> Option<String> {
    Some(match error {
        Error::NoDevice { .. } => "'ls /dev/dax*' lists the DAX devices; a pool in a file can be \
                                   in /dev/shm, or on any file system"
            .to_owned(),
        Error::NoDirectory { path } => format!("make it with 'mkdir -p {}'", path.display()),
        Error::NoPlace { .. } => "give the path of a new file, or of a DAX device".to_owned(),
        Error::Io { source, .. } if is_full(source) => MAKE_SPACE_ON_MEDIUM.to_owned(),
        Error::Unlinked { .. } => "bring out of the guest what you need ('nvvmm cp'), end the VM \
                                   with 'nvvmm stop', and use another pool"
            .to_owned(),
        _ => return None,
    })
}

/// True when the medium has no space for what was to be written, or its quota is used up.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The kind, and with it the exit code, of a pool error.
#[deny(clippy::wildcard_enum_match_arm)]
fn kind_of(error: &Error) -> ErrorKind {
    match error {
        Error::NotFound { .. }
        | Error::NoDisk { .. }
        | Error::NoBase { .. }
        | Error::NoDevice { .. }
        | Error::NoDirectory { .. } => ErrorKind::NotFound,
        Error::NameTaken { .. }
        | Error::FixedSize { .. }
        | Error::Busy { .. }
        | Error::DiskNameTaken { .. }
        | Error::DiskInUse { .. }
        | Error::NoDisksYet
        | Error::Exists { .. }
        | Error::HoldsPool { .. }
        | Error::InUse { .. }
        | Error::PoolLocked { .. }
        | Error::Unlinked { .. }
        | Error::NotDurable { .. }
        | Error::Incomplete { .. }
        | Error::BeingReceived { .. }
        | Error::NotAStream
        | Error::StreamVersion { .. }
        | Error::StreamDamaged { .. }
        | Error::StreamSealed
        | Error::StreamNotSealed
        | Error::WrongKey
        | Error::WrongBase { .. }
        | Error::BaseUnproven { .. }
        | Error::OverLimit { .. }
        | Error::TooManyHolders { .. }
        | Error::TooManyPins { .. }
        | Error::TooManySnapshots { .. } => ErrorKind::Refused,
        Error::PoolFull { .. }
        | Error::NoSpaceOnMedium { .. }
        | Error::MediumFull { .. }
        | Error::NoRoom { .. } => ErrorKind::PoolFull,
        Error::NotAPool { .. } | Error::Version { .. } | Error::Damaged { .. } => {
            ErrorKind::PoolDamaged
        }
        Error::InvalidName { .. }
        | Error::InvalidSize { .. }
        | Error::InvalidDisk { .. }
        | Error::NoPlace { .. } => ErrorKind::Usage,
        Error::Io { source, .. } if is_full(source) => ErrorKind::PoolFull,
        Error::Io { source, .. } => ErrorKind::of_io(source),
        Error::NotPinned { .. }
        | Error::InvalidSnapshot { .. }
        | Error::StreamNotWritten { .. }
        | Error::StreamCut
        | Error::Interrupted => ErrorKind::Failed,
    }
}

#[cfg(test)]
#[path = "pool_test.rs"]
mod pool_test;

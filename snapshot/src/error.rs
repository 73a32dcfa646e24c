//! Errors of pools. The texts name the cause. The program that shows them adds the remedy.

use std::path::PathBuf;

use crate::durability::{Durability, DurabilityLimit};
use crate::identity::BaseId;
use crate::lock_holder::LockHolder;
use crate::number::BLOCK_SIZE_BYTES;
use crate::wording::{SizeText, counted};

/// The result of a pool operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a pool operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file holds no pool.
    #[error("{} is not a pool: {why}", path.display())]
    NotAPool {
        /// The file.
        path: PathBuf,
        /// The contents that were found instead.
        why: String,
    },
    /// The pool has a format that this program does not know.
    #[error("the pool has format version {found}, this program knows version {expected}")]
    Version {
        /// Version read from the pool.
        found: u32,
        /// The version that this program reads and writes.
        expected: u32,
    },
    /// Something in the pool contradicts itself or its checksum.
    #[error("the pool is damaged: {what}")]
    Damaged {
        /// The finding, and its place.
        what: String,
    },
    /// There are not enough free blocks.
    #[error("the pool is full: {}", room(*needed, *free))]
    PoolFull {
        /// Blocks asked for.
        needed: u64,
        /// Blocks that are neither in a snapshot nor leased to a holder.
        free: u64,
    },
    /// A snapshot of that name exists.
    #[error("the name '{name}' is taken by another snapshot of the pool")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No snapshot of that name or id exists.
    #[error("no snapshot '{name}' in pool {}", pool.display())]
    NotFound {
        /// Name or id asked for.
        name: String,
        /// The pool that was searched.
        pool: PathBuf,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// Another holder uses the snapshot.
    #[error("snapshot '{name}' is in use by {holder}")]
    Busy {
        /// The snapshot.
        name: String,
        /// Name and process of the holder.
        holder: String,
    },
    /// A disk of that name exists.
    #[error("the name '{name}' is taken by another disk of the pool")]
    DiskNameTaken {
        /// The name.
        name: String,
    },
    /// No disk of that name exists.
    #[error("no disk '{name}' in pool {}", pool.display())]
    NoDisk {
        /// The name asked for.
        name: String,
        /// The pool that was searched.
        pool: PathBuf,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// Another holder uses the disk.
    #[error("disk '{name}' is in use by {holder}")]
    DiskInUse {
        /// The disk.
        name: String,
        /// Name and process of the holder.
        holder: String,
    },
    /// A request to a disk, or for one, is not possible.
    #[error("disk '{name}': {what}")]
    InvalidDisk {
        /// The disk.
        name: String,
        /// The fault.
        what: String,
    },
    /// The pool has an old format version, and others have it open: it cannot keep disks yet.
    #[error("the pool is of an old format version, which has no disks, and is in use")]
    NoDisksYet,
    /// Only a part of the snapshot has been received.
    #[error("snapshot '{name}' is incomplete: only a part of it was received")]
    Incomplete {
        /// The snapshot.
        name: String,
    },
    /// The name of a snapshot or of a holder cannot be used.
    #[error(
        "'{name}' cannot be a name: use 1 to 128 of A-Z a-z 0-9 . _ - @ and do not start with '.', \
         '-' or '@'"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Every holder slot is taken by a living process.
    #[error("{} use the pool, which is its limit", counted(*count, "VM process"))]
    TooManyHolders {
        /// The limit.
        count: u32,
    },
    /// The holder pins as many snapshots as it can.
    #[error("the VM needs {} already, which is its limit", counted(*count, "snapshot"))]
    TooManyPins {
        /// The limit.
        count: u32,
    },
    /// The catalog is full.
    #[error("the pool has {}, which is its limit", counted(*count, "snapshot"))]
    TooManySnapshots {
        /// The limit.
        count: u32,
    },
    /// The holder does not pin the snapshot that the operation needs pinned.
    #[error("snapshot {id} is not pinned by this holder")]
    NotPinned {
        /// Id of the snapshot.
        id: u64,
    },
    /// The frames given for a snapshot cannot be stored as they are.
    #[error("the snapshot cannot be stored: {what}")]
    InvalidSnapshot {
        /// The fault.
        what: String,
    },
    /// There is no such device.
    #[error("there is no device {}", path.display())]
    NoDevice {
        /// The device.
        path: PathBuf,
    },
    /// The directory of a new pool is missing.
    #[error("there is no directory {}", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Something is there that no pool can be in.
    #[error("no pool can be made at {}: {what}", path.display())]
    NoPlace {
        /// The place.
        path: PathBuf,
        /// The thing that is there.
        what: String,
    },
    /// The file of an open pool has no name any more: it lives until its last user ends.
    #[error(
        "the file of the pool, {}, was removed or replaced: nobody can open that pool again",
        path.display()
    )]
    Unlinked {
        /// The path that the file had.
        path: PathBuf,
    },
    /// The file exists already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The device holds a pool already.
    #[error("{} holds a pool already", path.display())]
    HoldsPool {
        /// The device.
        path: PathBuf,
    },
    /// Another process has the pool open.
    #[error("pool {} is in use", path.display())]
    InUse {
        /// The pool.
        path: PathBuf,
    },
    /// Another process has the pool's lock.
    #[error("the pool is locked by {holder}")]
    PoolLocked {
        /// The process.
        holder: LockHolder,
        /// True when the process is stopped, or has done nothing for too long. Otherwise only this
        /// thread was in a hurry ([`crate::wait_for_locks_at_most`]).
        hopeless: bool,
    },
    /// The size asked for a pool is not possible.
    #[error("a pool of {} is not possible: {why}", SizeText::of(*size_bytes))]
    InvalidSize {
        /// The size.
        size_bytes: u64,
        /// Why not, with the size that there is or that is needed.
        why: String,
    },
    /// The medium cannot be made longer.
    #[error("{} is a device, whose size is fixed", path.display())]
    FixedSize {
        /// The device.
        path: PathBuf,
    },
    /// The medium cannot keep what a pool promises.
    #[error(
        "the medium ({medium}) has {} left, and {} are needed",
        SizeText::left(*available_bytes),
        SizeText::needed(*needed_bytes)
    )]
    NoSpaceOnMedium {
        /// The kind of medium.
        medium: &'static str,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes the medium can still give.
        available_bytes: u64,
    },
    /// The medium cannot keep snapshots through what they were to survive.
    #[error(
        "the pool cannot promise durability '{asked}', only '{}': {}",
        limit.strongest,
        limit.reason
    )]
    NotDurable {
        /// The durability that was asked for.
        asked: Durability,
        /// The durability that the pool has.
        limit: DurabilityLimit,
    },
    /// The medium under the pool has no memory, or no space, for blocks that the pool has free:
    /// the pool may promise more than its medium has, or others fill the medium.
    #[error(
        "the medium of the pool ({medium}) is full: {} are needed, {} are left on it",
        SizeText::needed(*needed_bytes),
        SizeText::left(*available_bytes)
    )]
    MediumFull {
        /// The kind of medium.
        medium: &'static str,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes the medium can still give.
        available_bytes: u64,
    },
    /// Another process receives the snapshot.
    #[error("snapshot '{name}' is being received by process {pid}")]
    BeingReceived {
        /// The snapshot.
        name: String,
        /// The process that receives it.
        pid: u32,
    },
    /// The input is no stream of a snapshot.
    #[error("this is no stream of 'nvvmm send'")]
    NotAStream,
    /// The stream has a format that this program does not know.
    #[error("the stream has format version {found}, this program knows version {expected}")]
    StreamVersion {
        /// Version read from the stream.
        found: u32,
        /// The version that this program reads and writes.
        expected: u32,
    },
    /// The stream cannot be written to where it goes.
    #[error("cannot write the stream: {source}")]
    StreamNotWritten {
        /// The system's error.
        source: std::io::Error,
    },
    /// The stream ends too early.
    #[error("the stream ends before its end record: it was cut off")]
    StreamCut,
    /// The stream is not what was written.
    #[error("the stream is refused: {what}")]
    StreamDamaged {
        /// The finding.
        what: String,
    },
    /// The stream is sealed, and no key was given.
    #[error("the stream is encrypted")]
    StreamSealed,
    /// A key was given, and the stream is not sealed.
    #[error("the stream is not encrypted")]
    StreamNotSealed,
    /// The stream was sealed with another key.
    #[error(
        "the key is not the one that the stream was encrypted with, or the stream's beginning was \
         changed"
    )]
    WrongKey,
    /// The pool does not have the snapshot that the stream builds on, or does not know that it has.
    #[error(
        "the stream has only the changes to '{name}' since '{base}' ({id}), which is not known in \
         pool {}",
        pool.display()
    )]
    NoBase {
        /// The snapshot that was sent.
        name: String,
        /// The one that is missing, by its name where it was sent.
        base: String,
        /// And what it is in any pool.
        id: BaseId,
        /// The pool.
        pool: PathBuf,
    },
    /// The snapshot that the receiver named is not the one that the stream builds on.
    #[error(
        "the stream has only the changes to '{name}' since '{base}' ({id}); '{onto}' is another \
         snapshot"
    )]
    WrongBase {
        /// The snapshot that was sent.
        name: String,
        /// The one that it builds on, by its name where it was sent.
        base: String,
        /// And what it is in any pool.
        id: BaseId,
        /// The one that the receiver named.
        onto: String,
    },
    /// A stream of format version 1 does not prove what it builds on.
    #[error(
        "the stream has only the changes to '{name}' since '{base}', and as it is of format \
         version 1, nothing in it proves which snapshot that is"
    )]
    BaseUnproven {
        /// The snapshot that was sent.
        name: String,
        /// The one that it builds on, by its name where it was sent.
        base: String,
    },
    /// The frames of the stream would leave too little space.
    #[error(
        "the stream needs {} of {place}, which has {} free{}",
        SizeText::needed(*needed_bytes),
        SizeText::left(*free_bytes),
        reserved(*reserve_bytes)
    )]
    NoRoom {
        /// The pool, or its medium, in words.
        place: &'static str,
        /// Bytes that are still to be stored, at least.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
        /// Of these, the ones that stay free for running VMs.
        reserve_bytes: u64,
    },
    /// The stream stores more than the receiver allows.
    #[error(
        "the stream needs {}, and the limit is {}",
        SizeText::needed(*needed_bytes),
        SizeText::left(*limit_bytes)
    )]
    OverLimit {
        /// Bytes that the stream brings, at least.
        needed_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The caller has ended the operation.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused an operation.
    #[error("{op}: {source}")]
    Io {
        /// The operation.
        op: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// A part of a sentence on the space that is left for VMs.
fn reserved(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ => format!(", {} of them reserved for running VMs", SizeText::of(bytes)),
    }
}

/// A part of a sentence: the blocks that are needed, and those that there are, as sizes.
pub fn room(needed_blocks: u64, free_blocks: u64) -> String {
    let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_SIZE_BYTES);
    format!(
        "{} are needed, {} are free",
        SizeText::needed(bytes(needed_blocks)),
        SizeText::left(bytes(free_blocks))
    )
}

impl Error {
    pub(crate) fn damaged(what: impl Into<String>) -> Error {
        Error::Damaged { what: what.into() }
    }

    pub(crate) fn stream_damaged(what: impl Into<String>) -> Error {
        Error::StreamDamaged { what: what.into() }
    }

    pub(crate) fn invalid_disk(name: &str, what: impl Into<String>) -> Error {
        Error::InvalidDisk {
            name: name.to_owned(),
            what: what.into(),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error::InvalidSnapshot { what: what.into() }
    }

    /// For `map_err`: wraps what the operating system said about `op`.
    pub(crate) fn io<E: Into<std::io::Error>>(op: impl Into<String>) -> impl FnOnce(E) -> Error {
        let op = op.into();
        move |source| Error::Io {
            op,
            source: source.into(),
        }
    }
}

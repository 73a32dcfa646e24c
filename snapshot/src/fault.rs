//! Places at which a test can have the process die, as by `kill -9`.
//!
//! Builds with debug assertions read two variables; release builds have none of this.
//! `NVVMM_FAULT=<name>` kills the process at the place of that name, `NVVMM_FAULT=<name>:<n>` when
//! it comes there for the `n`-th time. `NVVMM_FAULT_WAIT=<name>:<file>` makes it wait there as long
//! as the file exists, so that a short state lasts long enough for a test.
//! `NVVMM_TEST_LACK=<file>` makes the host refuse a resource ([`ask_for`]): while the file says
//! `thread 3`, the third thread that the process asks for since then is refused, once.

use std::io;

macro_rules! fault_points {
    ($($(#[$meaning:meta])* $point:ident = $name:literal,)*) => {
        /// A place in the code, by what has just happened there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FaultPoint {
            $($(#[$meaning])* $point,)*
        }

        impl FaultPoint {
            /// All there are.
            pub const ALL: &[FaultPoint] = &[$(FaultPoint::$point,)*];

            /// Name of the place in `NVVMM_FAULT`.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultPoint::$point => $name,)*
                }
            }
        }
    };
}

fault_points! {
    /// The file of a pool is open, and not locked.
    MediumOpened = "medium.opened",
    /// The counts were derived anew, the dirty word still stands.
    RecoverCounted = "recover.counted",
    /// The committed superblock was made durable, nothing else was touched.
    RecoverConfirmed = "recover.confirmed",
    /// A dead holder's free blocks of a chunk wait to be cleaned; its lease still stands.
    ReclaimFreed = "reclaim.freed",
    /// A dead holder's leases have ended; its slot is still used.
    ReclaimLeasesEnded = "reclaim.leases-ended",
    /// Dead holders' slots are free; what only they pinned is still there.
    ReclaimSlotsFree = "reclaim.slots-free",
    /// A pool was recovered, but not marked as open.
    OpenRecovered = "open.recovered",
    /// The last user closed the pool: all is flushed, but the pool is not marked as closed in
    /// order.
    CloseFlushed = "close.flushed",
    /// A holder's slot is locked, but free.
    HoldLocked = "hold.locked",
    /// A holder's slot is used.
    HoldUsed = "hold.used",
    /// A pin was set.
    PinSet = "pin.set",
    /// Snapshots that only a pin kept are gone; the pin still stands.
    UnpinSwept = "unpin.swept",
    /// A holder ends: its leases are given back, its slot is still used.
    ReleaseLeasesEnded = "release.leases-ended",
    /// Snapshots that only this holder pinned have been removed.
    ReleaseSwept = "release.swept",
    /// A holder ended: its slot is free, and still locked.
    ReleaseSlotFree = "release.slot-free",
    /// A chunk was leased, and nobody has been told.
    LeaseTaken = "lease.taken",
    /// Freed blocks were zeroed; they are still the holder's.
    BlocksZeroed = "blocks.zeroed",
    /// A cleaner has zeroed blocks; they still wait.
    CleanZeroed = "clean.zeroed",
    /// A cleaner's blocks are free; the chunk's number of waiting blocks is too high.
    CleanCounted = "clean.counted",
    /// A cleaner has leased a free chunk to give all of its memory back.
    CleanReleasing = "clean.releasing",
    /// A snapshot's frames are flushed.
    CommitFramesFlushed = "commit.frames-flushed",
    /// The dirty word is set.
    CommitDirty = "commit.dirty",
    /// The new metadata is written, and not durable.
    CommitPrepared = "commit.prepared",
    /// The new metadata is durable.
    CommitDurable = "commit.durable",
    /// The new snapshot is pinned; it does not exist yet.
    CommitPinned = "commit.pinned",
    /// The new superblock is written, and not durable.
    CommitSuperblockWritten = "commit.superblock-written",
    /// The new superblock is durable.
    CommitSwitched = "commit.switched",
    /// The generation is noted as complete.
    CommitNoted = "commit.noted",
    /// Spare blocks that became free are zeroed; no count has changed.
    CommitZeroed = "commit.zeroed",
    /// The counts are those of the new catalog; the dirty word still stands.
    CommitCounted = "commit.counted",
    /// The commit is done.
    CommitSettled = "commit.settled",
    /// A removal is about to become a commit.
    RemoveDecided = "remove.decided",
    /// A snapshot without a name, that nobody pins any more, is about to go.
    SweepDecided = "sweep.decided",
    /// A consumed snapshot has left the catalog.
    ConsumeSwitched = "consume.switched",
    /// The chunks of a consumed snapshot are leased to the consumer.
    ConsumeLeased = "consume.leased",
    /// The counts no longer know a consumed snapshot's blocks.
    ConsumeSettled = "consume.settled",
    /// The file of a pool that grows is longer.
    GrowLengthened = "grow.lengthened",
    /// A pool has grown; the process that did it does not know yet.
    GrowSwitched = "grow.switched",
    /// A VM takes a snapshot: blocks for the commit are reserved.
    SnapshotReserved = "snapshot.reserved",
    /// Its vCPUs stand still.
    SnapshotPaused = "snapshot.paused",
    /// Its state is saved.
    SnapshotSaved = "snapshot.saved",
    /// Its frames are shared, and not armed.
    SnapshotShared = "snapshot.shared",
    /// Its frames are armed.
    SnapshotArmed = "snapshot.armed",
    /// The VM runs again; nothing is committed.
    SnapshotResumed = "snapshot.resumed",
    /// The snapshot is committed; nobody has been told.
    SnapshotCommitted = "snapshot.committed",
    /// A VM is restored: its snapshot is pinned and read.
    RestorePinned = "restore.pinned",
    /// Its memory is reserved.
    RestoreReserved = "restore.reserved",
    /// Its machine is as it was; it does not run.
    RestoreStateSet = "restore.state-set",
    /// The restored VM runs; nobody has been told.
    RestoreEntered = "restore.entered",
    /// Redirect engine, where a chunk is one page: a stretch of the snapshot is mapped and armed,
    /// before the guest runs.
    RedirectOriginMapped = "redirect.origin-mapped",
    /// Redirect engine: the guest touched a chunk, its blocks are mapped.
    RedirectChunkMapped = "redirect.chunk-mapped",
    /// Redirect engine: for a held write fresh blocks are taken.
    RedirectTaken = "redirect.taken",
    /// Redirect engine: the frames are copied, and not mapped.
    RedirectCopied = "redirect.copied",
    /// Redirect engine: the copies are mapped; the guest still waits.
    RedirectMapped = "redirect.mapped",
    /// Private engine: the guest touched a chunk, the snapshot's blocks are mapped.
    PrivateChunkMapped = "private.chunk-mapped",
    /// Private engine: the guest touched a chunk in many pieces, their bytes are copied in.
    PrivateChunkFilled = "private.chunk-filled",
    /// Private engine: for frames that were written fresh blocks are taken.
    PrivateTaken = "private.taken",
    /// Private engine: the frames of a chunk that were written are copied.
    PrivateCopied = "private.copied",
    /// Private engine: all rounds of copying are done that the guest runs through.
    PrivateAheadCopied = "private.ahead-copied",
    /// Private engine: the guest stands still, and the rest is copied.
    PrivateRestCopied = "private.rest-copied",
    /// A VM migrates: the other host has a snapshot of it.
    MigrationReceived = "migration.received",
    /// The other host has built the VM, and not said so.
    MigrationRestored = "migration.restored",
    /// The VM runs on the other host, which has not decided that it is there.
    MigrationResumed = "migration.resumed",
    /// The other host has decided that the VM is there, and not said so.
    MigrationTaken = "migration.taken",
    /// A push to an object store has left its marker there, and sent nothing.
    PushMarked = "push.marked",
    /// A pack is in the store; no snapshot names it.
    PushPackPut = "push.pack-put",
    /// A snapshot is in the store; the push's marker is there, too.
    PushManifestPut = "push.manifest-put",
    /// A chunk that was pulled has landed, and is in no committed file.
    PullChunkLanded = "pull.chunk-landed",
    /// Chunks that have arrived for a VM are committed, and the VM was not told.
    ArrivingKept = "arriving.kept",
    /// A VM pins what has arrived for it, and still pins what was there before.
    ArrivingPinned = "arriving.pinned",
}

/// Does nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn fault_point(_point: FaultPoint) {}

/// A resource that a host may refuse at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A thread (EAGAIN): RLIMIT_NPROC, pids.max.
    Thread,
    /// A file descriptor (EMFILE): RLIMIT_NOFILE, fs.file-max.
    Descriptor,
    /// A mapping (ENOMEM): vm.max_map_count, RLIMIT_AS.
    Mapping,
    /// Memory of the kernel (ENOMEM).
    Memory,
}

impl Resource {
    /// All there are.
    pub const ALL: [Resource; 4] = [
        Resource::Thread,
        Resource::Descriptor,
        Resource::Mapping,
        Resource::Memory,
    ];

    /// Its name in the file of `NVVMM_TEST_LACK`.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Thread => "thread",
            Resource::Descriptor => "descriptor",
            Resource::Mapping => "mapping",
            Resource::Memory => "memory",
        }
    }
}

/// Called before each request for a resource that a running VM makes.
///
/// # Errors
/// The host's answer when it has none, in a test that asked for that. Release builds know no such
/// test.
#[inline(always)]
pub fn ask_for(resource: Resource) -> io::Result<()> {
    #[cfg(debug_assertions)]
    lacking::ask_for(resource)?;
    let _ = resource;
    Ok(())
}

#[cfg(debug_assertions)]
mod lacking {
    use std::io;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use nix::libc;

    use super::Resource;

    /// Last content of the file, and the requests since then.
    static ASKED: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    pub fn ask_for(resource: Resource) -> io::Result<()> {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os("NVVMM_TEST_LACK").map(PathBuf::from));
        let Some(order) = file.as_ref().and_then(|f| std::fs::read_to_string(f).ok()) else {
            return Ok(());
        };
        let mut words = order.split_whitespace();
        if words.next() != Some(resource.name()) {
            return Ok(());
        }
        let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        // Another process of the same test may be meant.
        let process = words.next().and_then(|word| word.parse().ok());
        if process.is_some_and(|process: u32| process != std::process::id()) {
            return Ok(());
        }
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0 != order {
            *asked = (order.clone(), 0);
        }
        asked.1 += 1;
        if asked.1 != number {
            return Ok(());
        }
        // Tests look for this line.
        eprintln!("NVVMM_TEST_LACK: refused {}", order.trim());
        let errno = match resource {
            Resource::Thread => libc::EAGAIN,
            Resource::Descriptor => libc::EMFILE,
            Resource::Mapping | Resource::Memory => libc::ENOMEM,
        };
        Err(io::Error::from_raw_os_error(errno))
    }
}

#[cfg(debug_assertions)]
pub use armed::fault_point;

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::FaultPoint;

    struct Fault {
        name: String,
        passages_left: AtomicU64,
    }

    fn chosen() -> Option<Fault> {
        let text = std::env::var("NVVMM_FAULT").ok()?;
        let (name, passage) = text.split_once(':').unwrap_or((&text, "1"));
        let passage = passage.parse().ok().filter(|passage| *passage > 0);
        assert_known(name);
        Some(Fault {
            name: name.to_owned(),
            passages_left: AtomicU64::new(passage.expect("NVVMM_FAULT=name:n, with n from 1")),
        })
    }

    fn chosen_wait() -> Option<(String, PathBuf)> {
        let text = std::env::var("NVVMM_FAULT_WAIT").ok()?;
        let (name, file) = text.split_once(':').expect("NVVMM_FAULT_WAIT=name:file");
        assert_known(name);
        Some((name.to_owned(), file.into()))
    }

    fn assert_known(name: &str) {
        let known = FaultPoint::ALL.iter().any(|point| point.name() == name);
        assert!(known, "there is no fault point '{name}'");
    }

    /// Kills the process, if this is the place that `NVVMM_FAULT` names; waits, if
    /// `NVVMM_FAULT_WAIT` names it.
    pub fn fault_point(point: FaultPoint) {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        static WAIT: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();
        if let Some((name, file)) = WAIT.get_or_init(chosen_wait)
            && name == point.name()
            && file.exists()
        {
            // Tests look for this line, too.
            eprintln!("NVVMM_FAULT_WAIT: waits at {name}");
            while file.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let Some(fault) = FAULT.get_or_init(chosen) else {
            return;
        };
        if fault.name != point.name() || fault.passages_left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        // Tests look for this line: a process that died of something else proves nothing.
        let told = writeln!(std::io::stderr(), "NVVMM_FAULT: killed at {}", fault.name);
        let killed = kill(Pid::this(), Signal::SIGKILL);
        unreachable!("the process outlived its end: {told:?} {killed:?}");
    }
}

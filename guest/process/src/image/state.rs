use serde::{Deserialize, Serialize};

use super::{Attached, Confined, Ended, HeldFile, SegmentMark, Settings};
use crate::arch::Registers;
use crate::error::Pid;
use crate::observe::{Ids, Kernel, MemoryLayout};
use crate::special::{Connection, Socket, SocketPair, Special, Terminal, TerminalEnd};
use crate::sys::Schedule;

/// Processes of one instant, without the content of their pages: the capturer keeps that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The kernel they ran on.
    pub kernel: Kernel,
    /// The boot's ID, from /proc/sys/kernel/random/boot_id. A restored VM continues with the ID of
    /// its snapshot.
    pub boot: String,
    /// The extended state components that were enabled (XCR0).
    pub xfeatures: u64,
    /// Number of pages in the image.
    pub pages: u64,
    /// Open files, each of them once.
    pub files: Vec<OpenFile>,
    /// Pipes, with what is in them.
    pub pipes: Vec<Pipe>,
    /// Parents before their children; the first one is the root.
    pub processes: Vec<Process>,
    /// Commands of membarrier(2) by which each process has registered, in their order: a bit mask.
    /// `None`: the kernel did not tell, as before Linux 6.3. Empty in an image of version 1.
    pub barriers: Vec<Option<u32>>,
    /// Further settings of each process, in their order. Empty in an image of version 1 or 2.
    pub settings: Vec<Settings>,
    /// Owners and locks of some of the open files. None in an image of version 1 or 2.
    pub attached: Vec<Attached>,
    /// Children that ended and were not waited for. None in an image of version 1 or 2.
    pub ended: Vec<Ended>,
    /// Pairs of unix sockets. None in an image of version 1 or 2.
    pub pairs: Vec<SocketPair>,
    /// Files whose content is in the image. None in an image of version 1, 2 or 3.
    pub held: Vec<HeldFile>,
    /// Confinement of each process, in their order. Empty in an image of version 1, 2 or 3.
    pub confined: Vec<Confined>,
    /// Pairs of which a listener has accepted one end. None in an image of version 1, 2 or 3.
    pub connections: Vec<Connection>,
    /// Segments of System V shared memory among the held files. None in an image of version 1 to 4.
    pub segments: Vec<SegmentMark>,
    /// Pseudo-terminals. None in an image of version 1 to 4.
    pub terminals: Vec<Terminal>,
}

impl Image {
    /// Number of threads of its processes.
    pub fn threads(&self) -> usize {
        self.processes
            .iter()
            .map(|process| process.threads.len())
            .sum()
    }
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Index of its parent in the image's processes; None for the root.
    pub parent: Option<u32>,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// The program.
    pub executable: MappedFile,
    /// Places of the parts of its memory, for the kernel.
    pub layout: MemoryLayout,
    /// End of the heap.
    pub brk: u64,
    /// Auxiliary vector.
    pub auxv: Vec<u8>,
    /// Address of the vDSO with its data.
    pub vdso: u64,
    /// The files that are mapped.
    pub mapped_files: Vec<MappedFile>,
    /// All other memory, by address.
    pub mappings: Vec<Mapping>,
    /// Open file descriptors, by number.
    pub descriptors: Vec<ProcessDescriptor>,
    /// Working directory.
    pub directory: Vec<u8>,
    /// File mode creation mask.
    pub umask: u32,
    /// Its action for each signal, from 1 on.
    pub actions: Vec<SignalAction>,
    /// Signals pending for it as a whole, each a siginfo_t.
    pub pending: Vec<Vec<u8>>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub itimers: [ItimerValue; 3],
    /// Soft and hard limits, by the number of the resource.
    pub limits: Vec<(u64, u64)>,
    /// PR_SET_DUMPABLE.
    pub dumpable: u32,
    /// PR_SET_CHILD_SUBREAPER.
    pub subreaper: bool,
    /// personality(2).
    pub personality: u32,
    /// The OOM killer's preference.
    pub oom_score_adj: i32,
    /// The leader first.
    pub threads: Vec<Thread>,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub tid: Pid,
    /// Its name.
    pub name: Vec<u8>,
    /// General registers.
    pub registers: Registers,
    /// Extended state, as of XSAVE.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub signal_mask: u64,
    /// The stack of signal handlers.
    pub alt_stack: AltStack,
    /// Address that the kernel clears and wakes when the thread ends.
    pub clear_child_tid: u64,
    /// List of robust futexes.
    pub robust_list: RobustList,
    /// Restartable sequences.
    pub rseq: Option<Rseq>,
    /// Signals pending for it alone, each a siginfo_t.
    pub pending: Vec<Vec<u8>>,
    /// Identity and privileges.
    pub credentials: Credentials,
    /// Nice value.
    pub nice: i32,
    /// Scheduling policy.
    pub schedule: Schedule,
    /// The CPUs it may run on, a bit mask.
    pub affinity: Vec<u8>,
    /// The signal it gets when its parent ends, 0: none.
    pub parent_death_signal: i32,
}

/// Identity and privileges of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Users, groups, capabilities.
    pub ids: Ids,
    /// PR_SET_SECUREBITS.
    pub secure_bits: u32,
}

/// sigaltstack(2).
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AltStack {
    pub address: u64,
    pub flags: i32,
    pub size_bytes: u64,
}

/// set_robust_list(2).
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobustList {
    pub address: u64,
    pub len: u64,
}

/// rseq(2).
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    pub address: u64,
    pub size_bytes: u32,
    pub signature: u32,
}

/// The kernel's `struct sigaction`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// setitimer(2): microseconds.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItimerValue {
    pub interval_s: i64,
    pub interval_us: i64,
    pub value_s: i64,
    pub value_us: i64,
}

/// A mapped file, as it was at the capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedFile {
    /// Its path.
    pub path: Vec<u8>,
    /// Device and inode number.
    pub identity: (u64, u64),
    /// Its length.
    pub size_bytes: u64,
    /// Time of its last change: seconds, nanoseconds.
    pub modified: (i64, i64),
}

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// PROT_READ, PROT_WRITE, PROT_EXEC.
    pub protection: i32,
    /// The kind of memory.
    pub what: Mapped,
    /// Further properties.
    pub advice: Vec<Advice>,
    /// The pages of it that the image has; the rest is zero, or the file's.
    pub pages: Vec<PageRun>,
    /// Guard regions: first address, pages.
    pub guards: Vec<(u64, u64)>,
}

/// The kind of memory of a mapping. An older image has none of the kinds from `PrivateHeld` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapped {
    /// Private memory.
    #[default]
    Anonymous,
    /// Memory that the kernel may drop (MAP_DROPPABLE): it comes back empty.
    Droppable,
    /// A private view of a file.
    PrivateFile {
        /// Index in the process's mapped files.
        file: u32,
        /// Offset in the file.
        offset: u64,
    },
    /// A file's own pages.
    SharedFile {
        /// Index in the process's mapped files.
        file: u32,
        /// Offset in the file.
        offset: u64,
        /// True if it may be made writable.
        writable: bool,
    },
    /// A private view of a file whose content is in the image.
    PrivateHeld {
        /// Index in the image's held files.
        held: u32,
        /// Offset in the file.
        offset: u64,
    },
    /// The pages of a file whose content is in the image.
    SharedHeld {
        /// Index in the image's held files.
        held: u32,
        /// Offset in the file.
        offset: u64,
        /// True if it may be made writable.
        writable: bool,
    },
}

impl Mapped {
    /// True for memory that can have pages of the process's own.
    pub fn is_private(self) -> bool {
        matches!(
            self,
            Self::Anonymous | Self::PrivateFile { .. } | Self::PrivateHeld { .. }
        )
    }
}

/// A property of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Advice {
    /// MAP_GROWSDOWN.
    GrowsDown,
    /// MAP_NORESERVE.
    NoReserve,
    /// MADV_DONTFORK.
    DontFork,
    /// MADV_WIPEONFORK.
    WipeOnFork,
    /// MADV_DONTDUMP.
    DontDump,
    /// MADV_HUGEPAGE.
    HugePage,
    /// MADV_NOHUGEPAGE.
    NoHugePage,
    /// MADV_MERGEABLE.
    Mergeable,
    /// MADV_SEQUENTIAL.
    Sequential,
    /// MADV_RANDOM.
    Random,
    /// mlock(2).
    Locked,
    /// mlock2(2) with MLOCK_ONFAULT.
    LockedOnFault,
}

/// Neighbouring pages of a process that are neighbours in the image too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// The address of the first one.
    pub address: u64,
    /// Number of pages.
    pub pages: u64,
    /// The number of the first one in the image.
    pub image_page: u64,
}

/// A file descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDescriptor {
    /// Its number.
    pub fd: i32,
    /// Index in the image's open files.
    pub file: u32,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// An open file, which any number of descriptors may share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// The kind of the open file.
    pub what: What,
    /// Flags of open(2), without O_CLOEXEC.
    pub flags: i32,
    /// Offset of the next read or write.
    pub offset: u64,
}

/// The kind of an open file. An older image has none of the kinds from `NamedPipe` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A regular file or a directory.
    File {
        /// Its path.
        path: Vec<u8>,
        /// Device and inode number.
        identity: (u64, u64),
        /// Its length; it may have grown since.
        size_bytes: u64,
    },
    /// A device without a state: /dev/null, zero, full, random, urandom.
    Device {
        /// Its path.
        path: Vec<u8>,
        /// The device it stands for.
        device: u64,
    },
    /// An end of a pipe.
    PipeEnd {
        /// Index in the image's pipes.
        pipe: u32,
        /// The end that is written to.
        write: bool,
    },
    /// Standard input, output or error that is not in the image: the restart replaces it.
    Stdio {
        /// 0, 1 or 2.
        stream: i32,
        /// The modes of a terminal.
        terminal: Option<Vec<u8>>,
    },
    /// An open file of a pipe that has a path.
    NamedPipe {
        /// Index in the image's pipes.
        pipe: u32,
        /// Its path.
        path: Vec<u8>,
    },
    /// A file without a path that has a state of its own.
    Special(Special),
    /// A set of files that are waited for, of epoll(7).
    PollSet {
        /// Its entries.
        entries: Vec<PollEntry>,
    },
    /// An end of a pair of unix sockets.
    SocketEnd {
        /// Index in the image's pairs.
        pair: u32,
        /// The second end, not the first.
        second: bool,
    },
    /// A descriptor for a process of the image (pidfd_open(2)).
    ProcessFile {
        /// Its number.
        pid: Pid,
    },
    /// A socket that is not of a pair.
    Socket(Box<Socket>),
    /// A file whose content is in the image.
    Held {
        /// Index in the image's held files.
        held: u32,
    },
    /// An end of a pseudo-terminal.
    Terminal {
        /// Index in the image's terminals.
        terminal: u32,
        /// The end.
        end: TerminalEnd,
    },
}

/// An entry of a poll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollEntry {
    /// The descriptor by which the file was added; it may be closed, or another file's.
    pub fd: i32,
    /// Index in the image's open files.
    pub file: u32,
    /// The events that are waited for, with the flags of epoll_ctl(2).
    pub events: u32,
    /// The number that comes with an event.
    pub data: u64,
}

/// A pipe that only the image's processes have ends of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// Size of its buffer.
    pub capacity_bytes: u32,
    /// Bytes in the buffer.
    pub held: Vec<u8>,
}

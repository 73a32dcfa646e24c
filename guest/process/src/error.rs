//! Errors and refusals.

use std::fmt;
use std::io;

use crate::arch::ARCHITECTURE;

/// The number of a process or thread.
pub type Pid = i32;

/// Something of a process that cannot be captured, or cannot be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The process.
    pub pid: Pid,
    /// The name of its program, unless it is the process that was asked for.
    pub program: Option<String>,
    /// The part of the process.
    pub place: ProcessPart,
    /// The reason, as the end of a sentence that begins with the place.
    pub reason: String,
}

/// The part of a process that is the cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPart {
    /// The process as a whole.
    Process,
    /// One of its threads.
    Thread(Pid),
    /// A file descriptor.
    Descriptor(i32),
    /// The mapping that begins at this address.
    Address(u64),
}

impl Refusal {
    /// A refusal of the process that was asked for, or of a part of it.
    pub(crate) fn new(pid: Pid, place: ProcessPart, reason: impl Into<String>) -> Self {
        Self {
            pid,
            program: None,
            place,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        match self.place {
            ProcessPart::Process => {}
            ProcessPart::Thread(tid) => write!(f, ", thread {tid}")?,
            ProcessPart::Descriptor(fd) => write!(f, ", fd {fd}")?,
            ProcessPart::Address(address) => write!(f, ", memory at {address:#x}")?,
        }
        write!(f, " {}", self.reason)
    }
}

/// The reason why a capture or restart failed. A process that was to be captured continues as if
/// nothing had happened. A process that was to be restarted leaves nothing behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has something that an image cannot hold, or this system lacks something that the
    /// image needs.
    #[error("{}", sentences(.0))]
    Refused(Vec<Refusal>),
    /// No such process, or it ended meanwhile.
    #[error("process {0} does not exist (any more)")]
    Gone(Pid),
    /// Each time that a process and its descendants were looked at, one of these had just ended.
    #[error(
        "the descendants of process {pid} come and go too fast: in {tries} tries, one of them \
         ended each time"
    )]
    Restless {
        /// The process that was asked for.
        pid: Pid,
        /// Number of tries.
        tries: u32,
    },
    /// A thread that sleeps where nothing can stop it.
    #[error(
        "thread {tid} of process {process} did not stop within {limit_ms} ms: it waits in the \
         kernel for something that cannot be interrupted"
    )]
    DoesNotStop {
        /// The process, with the name of its program.
        process: String,
        /// The thread.
        tid: Pid,
        /// Time that was waited for it.
        limit_ms: u64,
    },
    /// The kernel moved pages faster than they could be listed.
    #[error("the pages of process {pid} were still moving after {rounds} rounds")]
    Unstable {
        /// The process.
        pid: Pid,
        /// Number of listings.
        rounds: u32,
    },
    /// The bytes of an image are not one that this program can use.
    #[error("not a usable process image: {0}")]
    BadImage(&'static str),
    /// The image is of another architecture, which is named here.
    #[error("the process image is of {0}, and this machine is {ARCHITECTURE}")]
    OtherArchitecture(String),
    /// A system call failed.
    #[error("cannot {op}: {source}")]
    System {
        /// The operation that failed.
        op: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One line for each. A line break in a name makes no line of its own.
fn sentences(refusals: &[Refusal]) -> String {
    let all: Vec<String> = refusals
        .iter()
        .map(|refusal| refusal.to_string().replace('\n', "\\n"))
        .collect();
    all.join("\n")
}

/// Makes an error, for `map_err`, of the operation that failed and the kernel's answer.
pub(crate) fn failed<E: Into<io::Error>>(op: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::System {
        op: op.into(),
        source: source.into(),
    }
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;

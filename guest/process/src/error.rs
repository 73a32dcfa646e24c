//! What can go wrong.

use std::fmt;
use std::io;

use crate::arch::ARCHITECTURE;

/// The number of a process or thread.
pub type Pid = i32;

/// What of a process cannot be held, or cannot be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The process.
    pub pid: Pid,
    /// What of it.
    pub place: Place,
    /// Why, as the end of a sentence that begins with the place.
    pub reason: String,
}

/// Where in a process a refusal's cause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
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
    /// That a thread has a tracer already, if it has.
    pub(crate) fn of_tracer(pid: Pid, tid: Pid, tracer: Pid) -> Option<Self> {
        (tracer != 0).then(|| Self {
            pid,
            place: Place::Thread(tid),
            reason: format!("is traced by process {tracer}"),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match self.place {
            Place::Process => {}
            Place::Thread(tid) => write!(f, ", thread {tid}")?,
            Place::Descriptor(fd) => write!(f, ", fd {fd}")?,
            Place::Address(address) => write!(f, ", memory at {address:#x}")?,
        }
        write!(f, " {}", self.reason)
    }
}

/// Why a capture or restart failed. The process that was to be captured goes on as if nothing had
/// been; of one that was to be restarted nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has something that an image does not hold, or this system lacks what the image
    /// needs.
    #[error("{}", sentences(.0))]
    Refused(Vec<Refusal>),
    /// No such process, or it ended meanwhile.
    #[error("process {0} does not exist (any more)")]
    Gone(Pid),
    /// A thread that sleeps where nothing can stop it.
    #[error(
        "thread {tid} did not stop within {limit_ms} ms: it waits in the kernel for something that cannot be interrupted"
    )]
    DoesNotStop {
        /// The thread.
        tid: Pid,
        /// How long it was waited for.
        limit_ms: u64,
    },
    /// The kernel moved pages faster than they could be listed.
    #[error("the pages of process {pid} were still moving after {rounds} rounds")]
    Unstable {
        /// The process.
        pid: Pid,
        /// How often they were listed.
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
        /// What was tried.
        op: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn sentences(refusals: &[Refusal]) -> String {
    let all: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
    all.join("\n")
}

/// For `map_err`: what was tried, with the kernel's answer.
pub(crate) fn failed<E: Into<io::Error>>(op: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::System {
        op: op.into(),
        source: source.into(),
    }
}

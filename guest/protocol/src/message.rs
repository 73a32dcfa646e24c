//! The messages. postcard numbers variants and fields by their place: nothing here may change its
//! place within a version.

use serde::{Deserialize, Serialize};

use crate::process::{
    Capture, Captured, Check, Checked, FrameRun, Frames, Restart, Restarted, frames_of_a_message,
    runs_of_a_message,
};

/// Most bytes of a stream or file in one message.
pub const DATA_BYTES_MAX: usize = 32 << 10;

/// From the host to the agent, on a stream of the host's. The first is a request: `Exec`, `Read`,
/// `Write`, `Capture` or `Restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Run a program.
    Exec(Exec),
    /// Send a file.
    Read {
        /// Its path in the guest.
        path: Vec<u8>,
    },
    /// Make or replace a file. `Data` and one `End` follow.
    Write {
        /// Its target; if that is a directory, the file goes into it as `name`.
        path: Vec<u8>,
        /// Its name on the host.
        name: Vec<u8>,
        /// Its permissions, as in chmod(2).
        mode: u32,
    },
    /// Input of the program, or a part of the file.
    Data(Vec<u8>),
    /// There is no more of it.
    End,
    /// The size of the host's terminal has changed.
    Resize(TerminalSize),
    /// Capture a process. What is said then: [`Capture`].
    Capture(Capture),
    /// Restart a process. What is said then: [`Restart`].
    Restart(Restart),
    /// Answer to `Frames`: it is done. Answer to `Image`: it is kept.
    Done,
    /// Answer to `Frames` or `Image`: it cannot be done. The agent lets the processes go on, or
    /// destroys what it has built, and answers `Failed`.
    Refused {
        /// The reason, in words.
        message: String,
    },
    /// Say if a process could be captured, and stop nothing. Answers: `Checked`, or `Failed` with
    /// what would be refused. Since version 6.
    Check(Check),
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program, found as a shell does, and its arguments.
    pub command: Vec<Vec<u8>>,
    /// Variables in addition to, or in place of, those of the agent.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Give it a terminal of that size.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// From the agent to the host, on a stream of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// The program has written to its standard output, or a part of the file.
    Data(Vec<u8>),
    /// The program has written to its standard error.
    ErrorData(Vec<u8>),
    /// The program has ended; nothing follows.
    Exited(Ended),
    /// A file that is sent: `Data` and one `End` follow.
    File {
        /// Its permissions, as in chmod(2).
        mode: u32,
    },
    /// There is no more of the file, or the file is written; nothing follows.
    End,
    /// The request failed; nothing follows.
    Failed {
        /// The sort of failure.
        because: FailedBecause,
        /// In words.
        message: String,
    },
    /// At a capture: these pages of the image are in these frames of the guest now; take them. A
    /// page may come again, when it is in another frame: the last time counts. At a restart:
    /// these frames of the guest, which the guest does not move meanwhile, shall hold these
    /// pages of the image. The agent waits for `Done` or `Refused`.
    Frames(#[serde(deserialize_with = "runs_of_a_message")] Vec<FrameRun>),
    /// The image without its pages: `Data` and one `End` follow. The agent waits for `Done` or
    /// `Refused`.
    Image {
        /// Its length.
        bytes: u64,
        /// Number of its pages: the number of each is below that.
        pages: u64,
    },
    /// The processes are captured; nothing follows.
    Captured(Captured),
    /// The processes run. If the host wanted to be attached, `Data`, `ErrorData` and `Exited`
    /// follow, else nothing.
    Restarted(Restarted),
    /// At a capture, before the processes are frozen: frames that are likely to be named in
    /// `Frames`. The host can prepare them now and save time then. The agent waits for
    /// `Done` or `Refused`.
    Ahead(#[serde(deserialize_with = "frames_of_a_message")] Vec<Frames>),
    /// A process could be captured as it is; nothing follows. Since version 6.
    Checked(Checked),
}

/// The end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Sorts of failures that the host acts upon differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailedBecause {
    /// There is no such program or file.
    NotFound,
    /// The program or file exists but may not be used so.
    Refused,
    /// Anything else.
    Failed,
}

/// From the guest's agent to the VM, on the agent's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// The first message: the agent is there, and asks if the VM was restored.
    Hello,
    /// All actions after the restore are done, also the guest's hooks.
    Settled {
        /// Failures, in words; empty if there were none.
        failures: Vec<String>,
    },
    /// Frames that hold nothing that matters, and will not be used before the VM puts something
    /// there (the agent's reserve).
    Idle(#[serde(deserialize_with = "frames_of_a_message")] Vec<Frames>),
}

/// From the VM to its guest's agent, on the agent's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Answer to `Hello`: nothing has happened to the VM that the guest has not been told of.
    Welcome,
    /// Answer to `Hello`: the VM was restored.
    Restored(Restored),
    /// Before `Restored`: the guest's connections are to stay as they are. Since version 5.
    KeepConnections,
}

/// Facts for a guest that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Name that the snapshot had.
    pub snapshot: String,
    /// The VM's name.
    pub vm: String,
    /// Role of the VM: there can be others that continue from the same moment.
    pub role: Role,
    /// Time from the snapshot to the restore, in nanoseconds of the host's clock.
    pub slept_ns: u64,
    /// The host's time of day, in nanoseconds since 1970.
    pub host_time_ns: u64,
    /// Set the guest's time of day to it.
    pub step_clock: bool,
    /// Random bytes, different in every copy, for the guest's entropy.
    pub seed: [u8; 32],
}

/// The role of a restored VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The snapshot was consumed by this restore: the only one that goes on from it.
    Original,
    /// One of any number.
    Copy,
}

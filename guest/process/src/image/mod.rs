//! An image: all of its processes but their pages, and its encoding.

mod held;
mod record;
mod settings;
mod state;
mod validate;

pub use crate::special::{EventCounter, Signals, SocketEnd, SocketPair, Special, Timer};
pub use held::{HeldFile, HeldKind};
pub use settings::{Attached, Ended, ProcessTimer, RecordLock, Settings, ThreadSettings};
pub use state::{
    Advice, AltStack, Credentials, Image, ItimerValue, Mapped, MappedFile, Mapping, OpenFile,
    PageRun, Pipe, PollEntry, Process, ProcessDescriptor, RobustList, Rseq, SignalAction, Thread,
    What,
};

#[cfg(test)]
mod image_test;

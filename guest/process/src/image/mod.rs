//! An image: all of its processes but their pages, and its encoding.

mod confined;
mod held;
mod record;
mod settings;
mod state;
mod validate;

pub use crate::special::{
    Connection, EventCounter, Signals, Socket, SocketEnd, SocketOption, SocketPair, SocketState,
    Special, Stopped, Terminal, TerminalContent, TerminalEnd, TerminalLine, Timer, Watch, Watches,
};
pub use confined::{Confined, Filter};
pub use held::{HeldFile, HeldKind, SegmentMark};
pub use settings::{Attached, Ended, ProcessTimer, RecordLock, Settings, ThreadSettings};
pub use state::{
    Advice, AltStack, Credentials, Image, ItimerValue, Mapped, MappedFile, Mapping, OpenFile,
    PageRun, Pipe, PollEntry, Process, ProcessDescriptor, RobustList, Rseq, SignalAction, Thread,
    What,
};

#[cfg(test)]
mod image_test;
#[cfg(test)]
mod version_4_test;
#[cfg(test)]
mod version_5_test;

//! What an image holds besides pages, and its bytes.

mod record;
mod state;
mod validate;

pub use state::{
    Advice, AltStack, Credentials, Image, ItimerValue, Mapped, MappedFile, Mapping, OpenFile,
    PageRun, Pipe, Process, ProcessDescriptor, RobustList, Rseq, SignalAction, Thread, What,
};

#[cfg(test)]
mod image_test;

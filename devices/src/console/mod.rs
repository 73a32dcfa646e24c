//! The host's side of the serial console.
//!
//! The vCPU that writes output puts it into a bounded buffer ([`ConsoleOut`]). The event thread
//! carries it from there to standard output and to the clients of the console socket ([`Console`]).
//! A reader that is too slow loses output, and is told how much. The guest never waits. Input waits
//! in the host until the guest has room.

mod backlog;
mod client;
mod kept;
mod output;
mod stdio;
mod streams;
mod subscriber;

pub use kept::{KEPT_BYTES, KeptOutput, LatestOutput, read_kept_output};
pub use output::ConsoleOut;
pub use streams::ConsoleStreams;
pub use subscriber::{Console, ConsoleInput};

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;

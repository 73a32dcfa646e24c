//! The host's side of the serial console: where the guest's output goes and its input comes from.
//!
//! The guest's output is put into a bounded buffer by the vCPU that writes it ([`ConsoleOut`]), and
//! carried from there to standard output and to the clients of the console socket by the event
//! thread ([`Console`]). A reader that is too slow loses output, and is told how much; the guest
//! never waits. Input waits in the host until the guest has room.

mod backlog;
mod client;
mod output;
mod stdio;
mod streams;
mod subscriber;

pub use output::ConsoleOut;
pub use streams::ConsoleStreams;
pub use subscriber::Console;

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;

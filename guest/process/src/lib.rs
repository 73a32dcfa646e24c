//! Captures running Linux processes (x86-64) and restarts them: all of a process but the content of
//! its pages goes into an [`Image`]; pages are handed to whoever calls, by reference ([`PageSink`],
//! [`PageSource`]).
//!
//! Needs root. Whatever traces a process is one thread: call this from a thread that does nothing
//! else meanwhile, and lives as long as what it froze. One restart at a time in a process, and no
//! capture beside it: the first stub has for a moment all that the process has open.

mod arch;
mod capture;
mod error;
mod freeze;
pub mod image;
mod inject;
mod observe;
mod pages;
mod restart;
mod sys;

pub use capture::{CaptureOptions, Captured, Checked, check};
pub use error::{Error, Pid, Place, Refusal};
pub use freeze::{Afterwards, Frozen};
pub use image::Image;
pub use pages::{CopiedPages, PageSink, PageSource, Placed, Taken, WINDOWS, WindowPages};
pub use restart::{Empty, Reserve, RestartOptions, Restarted, restart};

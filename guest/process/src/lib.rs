//! Captures running Linux processes and restarts them. All of a process but the content of its
//! pages goes into an [`Image`]. Pages are handed to the caller by reference ([`PageSink`],
//! [`PageSource`]).
//!
//! Needs root. The tracer of a process is one thread: call this from a thread that does nothing
//! else meanwhile, and lives as long as the processes that it froze. A process makes one restart at
//! a time, and no capture beside it: for a moment the first stub has all that the process has open.

mod arch;
mod capture;
mod error;
mod freeze;
pub mod image;
mod inject;
mod observe;
mod pages;
mod restart;
mod special;
mod sys;

pub use capture::{CaptureOptions, Captured, Checked, check, freeze_and_capture};
pub use error::{Error, Pid, ProcessPart, Refusal};
pub use freeze::{FreezeEnd, Frozen};
pub use image::Image;
pub use pages::{CopiedPages, PageSink, PageSource, Placed, Taken, WINDOWS, WindowPages};
pub use restart::{Empty, Reserve, RestartOptions, Restarted, restart};

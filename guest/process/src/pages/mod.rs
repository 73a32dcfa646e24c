//! Ways of memory into an image and out of it again. The user of this crate chooses: an agent in a
//! guest hands frames to its host; a test copies.

mod copied;
mod window;

pub use copied::CopiedPages;
pub use window::WindowPages;

use std::io;
use std::os::fd::BorrowedFd;

use crate::error::Pid;
use crate::image::PageRun;

/// Directory where file systems that show images are mounted. In a capture private memory of their
/// files counts as anonymous. Its pages are taken from the process's own frames, or from the frames
/// that show the image.
pub const WINDOWS: &str = "/run/nvvmm/windows";

/// Pages of a frozen process that are to be pages of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The address of the first one in the process.
    pub address: u64,
    /// The number of the frame (PFN) that the first one is in now; the others follow it.
    pub frame: u64,
    /// The number of the first one in the image.
    pub image_page: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Takes pages of frozen processes into an image.
pub trait PageSink {
    /// Takes these pages, of a process that stands still. The kernel may move a page to another
    /// frame at any time, so a page comes again, with the same number, until its frame was the
    /// same before and after it was taken: the last time counts.
    fn take(&mut self, process: Pid, pages: &[Taken]) -> io::Result<()>;
}

/// Pages of a stub that shall hold pages of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The address of the first one in the process; private memory, writable while this is asked.
    pub address: u64,
    /// The number of the first one in the image.
    pub image_page: u64,
    /// Number of pages.
    pub pages: u64,
    /// The frame that the first one is in, the others following it, if
    /// [`PageSource::wants_frames`].
    pub frame: Option<u64>,
}

impl From<&PageRun> for Placed {
    fn from(run: &PageRun) -> Self {
        Self {
            address: run.address,
            image_page: run.image_page,
            pages: run.pages,
            frame: None,
        }
    }
}

/// Gives pages of an image to stubs.
pub trait PageSource {
    /// True if pages must have frames of their own before they are placed. The kernel does not move
    /// these frames until the pages are placed.
    fn wants_frames(&self) -> bool {
        false
    }

    /// A file that holds the image's pages, in their order, if there is one: long runs of anonymous
    /// memory are mapped from it, privately, and not placed. It must stay as it is while
    /// anybody has it mapped.
    fn window(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Makes these pages, of a process that stands still, hold what the image has.
    fn place(&mut self, process: Pid, pages: &[Placed]) -> io::Result<()>;
}

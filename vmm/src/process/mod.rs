//! Snapshots and restarts of single processes of a guest, as the VM sees them: its agent (crate `nvvmm-protocol`) says which
//! frames a process has, the VM adds those frames to an image in the pool, or puts an image's blocks behind frames.
//!
//! [`conversation`] is what is said to the agent, [`Capturing`] and [`Placing`] what is done to guest memory. The agent is in
//! the guest and trusted in nothing: whatever it says concerns its own VM's frames and its own image, or is refused.

pub mod conversation;

mod capturing;
mod idle;
mod pages;
mod placing;
mod report;
mod saved;

pub use capturing::{Capturing, Kept};
pub use conversation::{AgentError, CaptureSteps, PlaceSteps};
pub use idle::set_idle;
pub use placing::Placing;
pub use report::{CaptureReport, RestartReport};
pub use saved::SavedProcess;

use nvvmm_protocol::FrameRun;
use vm_memory::GuestAddress;

use crate::{
    checkpoint::blob::BlobError,
    cow::{CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES},
    memory::{GuestRam, gpa_of, ram_offset_of},
    sys::uffd::Fault,
};

/// Why frames were not taken or placed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The pool refused: full, name taken, too many images in use.
    #[error("{0}")]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The engine refused.
    #[error("{0}")]
    Cow(#[from] CowError),
    /// The image is not one of a process, or too large.
    #[error("{0}")]
    Blob(#[from] BlobError),
    /// The agent names what there is not.
    #[error("the guest's agent names {0}")]
    Lie(String),
    /// Guest memory could not be read or written.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A snapshot of the whole VM was taken meanwhile, or the VM is ending.
    #[error("a snapshot of the whole VM, or its end, came in between")]
    Overtaken,
}

/// A frame of guest RAM and the page of an image that it holds, or is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FramePage {
    /// The chunk of guest RAM.
    chunk: u32,
    /// The frame in that chunk.
    frame: u32,
    /// The page of the image.
    page: u64,
}

impl FramePage {
    fn ram_offset(self) -> u64 {
        let frame = u64::from(self.chunk) * u64::from(CHUNK_FRAMES) + u64::from(self.frame);
        frame * FRAME_SIZE_BYTES as u64
    }

    /// Where the frame is, for the guest.
    fn address(self) -> GuestAddress {
        GuestAddress(gpa_of(self.ram_offset()))
    }

    /// An access to the frame, as if it were held.
    fn access(self, ram: &GuestRam, write: bool) -> Fault {
        Fault {
            address: ram.reservation().start() + self.ram_offset() as usize,
            write,
            write_protected: false,
        }
    }
}

/// How many frames `ram` has.
fn frames_of(ram: &GuestRam) -> u64 {
    ram.size_bytes() / FRAME_SIZE_BYTES as u64
}

/// The pages of a run are below `pages_max`.
fn check_pages(run: &FrameRun, pages_max: u64) -> Result<(), ProcessError> {
    let end = run.image_page.saturating_add(u64::from(run.pages));
    if end > pages_max {
        return Err(ProcessError::Lie(format!(
            "page {end} of an image that has {pages_max} at most"
        )));
    }
    Ok(())
}

/// The frames that `runs` name, each of which is one of `ram`; pages are below `pages_max`.
fn named_frames(runs: &[FrameRun], ram: &GuestRam, pages_max: u64) -> Result<Vec<FramePage>, ProcessError> {
    let frame_bytes = FRAME_SIZE_BYTES as u64;
    let frames_max = frames_of(ram);
    let frames: u64 = runs.iter().map(|run| u64::from(run.pages)).sum();
    if frames > frames_max {
        return Err(ProcessError::Lie(format!(
            "{frames} frames at a time, of {frames_max} that there are"
        )));
    }
    let mut named = Vec::new();
    for run in runs {
        check_pages(run, pages_max)?;
        for nth in 0..u64::from(run.pages) {
            let gfn = run.gfn.checked_add(nth);
            let gpa = gfn.and_then(|gfn| gfn.checked_mul(frame_bytes));
            let offset = gpa
                .and_then(|gpa| ram_offset_of(gpa, ram.size_bytes()))
                .ok_or_else(|| {
                    ProcessError::Lie(format!(
                        "frame {:#x}, which is no memory of this VM",
                        run.gfn.saturating_add(nth)
                    ))
                })?;
            let frame = offset / frame_bytes;
            named.push(FramePage {
                chunk: (frame / u64::from(CHUNK_FRAMES)) as u32,
                frame: (frame % u64::from(CHUNK_FRAMES)) as u32,
                page: run.image_page + nth,
            });
        }
    }
    Ok(named)
}

#[cfg(test)]
mod process_test;

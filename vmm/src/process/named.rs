//! Frames of guest RAM, as an agent names them.

use std::{collections::BTreeMap, ops::Range};

use nvvmm_protocol::{FrameRun, Frames};
use nvvmm_snapshot::{ChunkIndex, FrameIndex, FrameSet};
use vm_memory::GuestAddress;

use super::ProcessError;
use crate::{
    cow::{CHUNK_FRAMES, FRAME_SIZE_BYTES},
    memory::{GuestRam, gpa_of, ram_offset_of},
    sys::uffd::Fault,
};

const FRAME_BYTES: u64 = FRAME_SIZE_BYTES as u64;

/// Neighbouring frames of one chunk of guest RAM, and the page of an image that the first one
/// holds, or is to hold; its neighbours have those that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedRun {
    /// The chunk of guest RAM.
    pub chunk: ChunkIndex,
    /// Frames in that chunk.
    pub frames: Range<u32>,
    /// The page of the image.
    pub page: u64,
}

impl NamedRun {
    /// Each frame with its page.
    pub fn iter(&self) -> impl Iterator<Item = (FrameIndex, u64)> {
        FrameIndex::range(self.frames.clone()).zip(self.page..)
    }
}

/// Guest physical address of a frame of a chunk.
pub(super) fn address_of(chunk: ChunkIndex, frame: FrameIndex) -> GuestAddress {
    GuestAddress(gpa_of(ram_offset(chunk, frame)))
}

/// An access to a frame of a chunk, as if it were held.
pub(super) fn access_to(
    ram: &GuestRam,
    chunk: ChunkIndex,
    frame: FrameIndex,
    write: bool,
) -> Fault {
    Fault {
        address: ram.reservation().start() + ram_offset(chunk, frame) as usize,
        write,
        write_protected: write,
    }
}

fn ram_offset(chunk: ChunkIndex, frame: FrameIndex) -> u64 {
    chunk.byte_offset() + frame.byte_offset()
}

/// Number of frames of `ram`.
pub(super) fn frames_of(ram: &GuestRam) -> u64 {
    ram.size_bytes() / FRAME_BYTES
}

/// Checks that the pages of a run are below `pages_max`.
pub(super) fn check_pages(run: &FrameRun, pages_max: u64) -> Result<(), ProcessError> {
    let end = run.image_page.saturating_add(u64::from(run.pages));
    if end > pages_max {
        return Err(ProcessError::Invalid(format!(
            "page {end} of an image that has {pages_max} at most"
        )));
    }
    Ok(())
}

/// The frames that `runs` name, each of which is one of `ram`; pages are below `pages_max`.
pub(super) fn named_runs(
    runs: &[FrameRun],
    ram: &GuestRam,
    pages_max: u64,
) -> Result<Vec<NamedRun>, ProcessError> {
    let frames_max = frames_of(ram);
    let frames: u64 = runs.iter().map(|run| u64::from(run.pages)).sum();
    if frames > frames_max {
        return Err(ProcessError::Invalid(format!(
            "{frames} frames at a time, of {frames_max} that there are"
        )));
    }
    let mut named = Vec::with_capacity(runs.len());
    for run in runs {
        check_pages(run, pages_max)?;
        let mut done = 0;
        while done < run.pages {
            let part = part_in_chunk(run, done, ram)?;
            done += part.frames.len() as u32;
            named.push(part);
        }
    }
    Ok(named)
}

/// The frames that `frames` name, each of which is one of `ram`.
pub(super) fn named_frames(
    frames: &[Frames],
    ram: &GuestRam,
) -> Result<Vec<NamedRun>, ProcessError> {
    let as_run = |frames: &Frames| FrameRun {
        gfn: frames.gfn,
        pages: frames.count,
        image_page: 0,
    };
    let runs: Vec<FrameRun> = frames.iter().map(as_run).collect();
    named_runs(&runs, ram, u64::MAX)
}

/// The runs of each chunk, in the order they were named in.
pub(super) fn per_chunk(named: Vec<NamedRun>) -> BTreeMap<ChunkIndex, Vec<NamedRun>> {
    let mut chunks: BTreeMap<ChunkIndex, Vec<NamedRun>> = BTreeMap::new();
    for run in named {
        chunks.entry(run.chunk).or_default().push(run);
    }
    chunks
}

/// All frames of runs of one chunk.
pub(super) fn frames_in(runs: &[NamedRun]) -> FrameSet {
    let mut frames = FrameSet::EMPTY;
    for frame in runs.iter().flat_map(|run| run.frames.clone()) {
        frames.insert(frame);
    }
    frames
}

/// The part of a run that is in one chunk, from its page `from` on. Ranges of RAM begin and end
/// with chunks.
fn part_in_chunk(run: &FrameRun, from: u32, ram: &GuestRam) -> Result<NamedRun, ProcessError> {
    let offset_of = |nth: u32| {
        let gfn = run.gfn.checked_add(nth.into())?;
        ram_offset_of(gfn.checked_mul(FRAME_BYTES)?, ram.size_bytes())
    };
    let offset = offset_of(from).ok_or_else(|| {
        ProcessError::Invalid(format!(
            "frame {:#x}, which is no memory of this VM",
            run.gfn.saturating_add(from.into())
        ))
    })?;
    let first = FrameIndex::at_byte(offset).get();
    Ok(NamedRun {
        chunk: ChunkIndex::at_byte(offset),
        frames: first..first + (run.pages - from).min(CHUNK_FRAMES - first),
        page: run.image_page + u64::from(from),
    })
}

//! Frames that the guest keeps ready for a process, and does not use before.

use std::collections::BTreeMap;

use nvvmm_protocol::{FrameRun, Frames};
use nvvmm_snapshot::FrameSet;

use super::{ProcessError, named_frames};
use crate::cow::CowEngine;

/// Takes them out of this process's page tables: to put an image's blocks behind them is several times faster then. What they hold
/// stays, and the next access finds it.
///
/// # Errors
/// [`ProcessError::Lie`], or what the engine says: nothing is lost by it.
pub fn set_idle(frames: &[Frames], engine: &dyn CowEngine) -> Result<(), ProcessError> {
    let runs: Vec<FrameRun> = frames
        .iter()
        .map(|run| FrameRun {
            gfn: run.gfn,
            pages: run.count,
            image_page: 0,
        })
        .collect();
    let mut by_chunk: BTreeMap<u32, FrameSet> = BTreeMap::new();
    for named in named_frames(&runs, engine.ram(), u64::MAX)? {
        by_chunk.entry(named.chunk).or_default().insert(named.frame);
    }
    for (chunk, frames) in by_chunk {
        engine.unmap_idle(chunk, &frames)?;
    }
    Ok(())
}

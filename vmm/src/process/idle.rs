//! Frames that the guest keeps ready for a process, and does not use yet.

use nvvmm_protocol::Frames;

use super::{
    ProcessError,
    named::{frames_in, named_frames, per_chunk},
};
use crate::cow::CowEngine;

/// Removes idle frames from this process's page tables: to put an image's blocks behind them is
/// several times faster then. Their content stays, and the next access finds it.
///
/// # Errors
/// [`ProcessError::Invalid`], or those of the engine. Nothing is lost then.
pub fn set_idle(frames: &[Frames], engine: &dyn CowEngine) -> Result<(), ProcessError> {
    for (chunk, runs) in per_chunk(named_frames(frames, engine.ram())?) {
        engine.unmap_idle(chunk, &frames_in(&runs))?;
    }
    Ok(())
}

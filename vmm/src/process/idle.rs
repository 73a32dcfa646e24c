//! Frames that the guest keeps ready for a process, and does not use before.

use nvvmm_protocol::Frames;

use super::{
    ProcessError,
    named::{frames_in, named_frames, per_chunk},
};
use crate::cow::CowEngine;

/// Takes them out of this process's page tables: to put an image's blocks behind them is several
/// times faster then. What they hold stays, and the next access finds it.
///
/// # Errors
/// [`ProcessError::Lie`], or what the engine says: nothing is lost by it.
pub fn set_idle(frames: &[Frames], engine: &dyn CowEngine) -> Result<(), ProcessError> {
    for (chunk, runs) in per_chunk(named_frames(frames, engine.ram())?) {
        engine.unmap_idle(chunk, &frames_in(&runs))?;
    }
    Ok(())
}

//! Sets of frames of one chunk, in the forms the engine needs.

use std::ops::Range;

use nvvmm_snapshot::FrameSet;

/// The set of `frames`.
pub(super) fn set_of(frames: impl IntoIterator<Item = u32>) -> FrameSet {
    let mut set = FrameSet::EMPTY;
    for frame in frames {
        set.insert(frame);
    }
    set
}

/// The frames of `set` as ranges without gaps, in rising order.
pub(super) fn runs(set: &FrameSet) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for frame in set.iter() {
        match runs.last_mut() {
            Some(run) if run.end == frame => run.end += 1,
            _ => runs.push(frame..frame + 1),
        }
    }
    runs
}

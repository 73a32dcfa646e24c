//! Hooks of a guest around `nvvmm snapshot`.

use std::time::Duration;

use nvvmm::VmError;
use nvvmm::agent::hooks::SnapshotHooks;
use nvvmm::control::{VmRuntimePaths, VmState, VmStatus};

use super::message;

/// Runs the hooks before a snapshot of the VM, if an agent in its guest can. A guest that stands
/// still cannot.
///
/// # Errors
/// A hook failed or took too long: no snapshot is to be taken.
pub fn before(
    paths: &VmRuntimePaths,
    status: &VmStatus,
    snapshot: &str,
    limit: Duration,
) -> Result<Option<SnapshotHooks>, VmError> {
    match status.has_agent && status.state == VmState::Running {
        true => SnapshotHooks::before(paths, snapshot, limit),
        false => Ok(None),
    }
}

/// Runs the hooks after it. A failure is told, and changes nothing.
pub fn after(hooks: Option<SnapshotHooks>) {
    if let Some(Err(error)) = hooks.map(SnapshotHooks::after) {
        message::warn(&error.message);
    }
}

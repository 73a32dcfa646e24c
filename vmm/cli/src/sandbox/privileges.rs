//! Privileges that a VM process gives up.

use caps::CapSet;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nvvmm::VmError;

/// Gives up all capabilities and the ways to new ones, core dumps, and being traced or read by
/// other processes of the same user.
///
/// # Errors
/// The kernel refuses; that has no reason that passes.
pub fn drop_all() -> Result<(), VmError> {
    let failed = |what: &'static str| move |e: nix::Error| VmError::io(what, &e.into());
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("switch core dumps off"))?;
    set_dumpable(false).map_err(failed("keep this process's memory from others"))?;
    set_no_new_privs().map_err(failed("give up new privileges"))?;
    drop_capabilities()
}

fn drop_capabilities() -> Result<(), VmError> {
    // An ordinary user may not empty it, and without capabilities and with no_new_privs it gives
    // nothing.
    let _ = caps::clear(None, CapSet::Bounding);
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set)
            .map_err(|e| VmError::failed(format!("cannot give up capabilities: {e}")))?;
    }
    Ok(())
}

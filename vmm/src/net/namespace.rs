//! Network namespaces of the host.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::NetError;

/// The directory in which `ip netns` names namespaces.
const NAMED: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// Does `work` in the namespace `name`, and comes back.
///
/// # Errors
/// [`NetError::Namespace`], or the error of `work`.
pub(super) fn within<T>(
    name: &str,
    work: impl FnOnce() -> Result<T, NetError>,
) -> Result<T, NetError> {
    let failed = |source| NetError::Namespace {
        name: name.to_owned(),
        source,
    };
    if name.contains('/') || matches!(name, "" | "." | "..") {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let own = File::open(OWN).map_err(failed)?;
    let other = File::open(Path::new(NAMED).join(name)).map_err(failed)?;
    setns(&other, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
    let done = work();
    setns(&own, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
    done
}

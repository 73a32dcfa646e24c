//! Confinement of the commands that parse bytes of others: `receive`, `inspect`, `diff`, `export`,
//! `disk import`, `disk export`, `pool check`, `pool scrub`, `pool map` and `pool mount`.
//!
//! Such a command opens its input and output, and then calls [`to_pool`]. From there on it opens
//! no file but the pool, connects to nothing, starts no program and reaches no other process. What
//! it must do to other files at its end, a [`Helper`] does, which has parsed nothing.

mod calls;
mod helper;
#[cfg(debug_assertions)]
mod trial;

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::prctl::set_dumpable;
use nvvmm::{ErrorKind, VmError};

pub use self::helper::Helper;

/// Facts of the kernel that the crate of the pool reads: random bytes, memory that is left, this
/// boot, this process, the device under the pool, huge pages. None of it belongs to a user.
const FACTS: [&str; 7] = [
    "/dev/urandom",
    "/proc/meminfo",
    "/proc/self/stat",
    "/proc/sys/kernel/random/boot_id",
    "/sys/dev",
    "/sys/devices",
    "/sys/kernel/mm/hugepages",
];
/// The newest rules of Landlock that this program knows. An older kernel has fewer.
const LANDLOCK: ABI = ABI::V6;

/// Confines this process, which has one thread, to its open files and to the pool at `pool`. The
/// pool need not be open yet.
///
/// # Errors
/// [`ErrorKind::HostLacks`] when the kernel has no seccomp filters.
pub fn to_pool(pool: &Path) -> Result<(), VmError> {
    let failed = |what: &dyn std::fmt::Display| {
        VmError::new(
            ErrorKind::HostLacks,
            format!("cannot confine this command, which parses what others wrote: {what}"),
        )
        .with_remedy("use a kernel with CONFIG_SECCOMP_FILTER; 'nvvmm doctor' shows what it has")
    };
    set_dumpable(false).map_err(|e| failed(&e))?;
    let files = restrict_files(pool).map_err(|e| failed(&e))?;
    if files == RulesetStatus::NotEnforced {
        tracing::info!("this kernel has no Landlock: only system calls are restricted");
    }
    calls::restrict(std::process::id()).map_err(|e| failed(&e))?;
    #[cfg(debug_assertions)]
    trial::try_what_is_asked();
    Ok(())
}

/// Takes all rights to files away, but those of the pool and of [`FACTS`]; and those to TCP ports,
/// to abstract sockets and to signals of other processes.
fn restrict_files(pool: &Path) -> Result<RulesetStatus, RulesetError> {
    let of_pool =
        AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let of_fact = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let facts = FACTS.iter().map(|fact| (Path::new(fact), of_fact));
    for (path, rights) in facts.chain([(pool, of_pool)]) {
        // A fact that is not there is not read; for a pool that is not there its opening fails.
        let Ok(file) = PathFd::new(path) else {
            continue;
        };
        rules = rules.add_rule(PathBeneath::new(file, fitting(path, rights)))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// The rights that the kind of file at `path` can have.
fn fitting(path: &Path, rights: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    match path.is_dir() {
        true => rights,
        false => rights & AccessFs::from_file(LANDLOCK),
    }
}

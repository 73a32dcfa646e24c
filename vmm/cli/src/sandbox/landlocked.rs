//! Landlock: files, TCP ports, abstract sockets and signals that a process cannot reach any more.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

/// The newest version of Landlock that this program knows. An older kernel holds what it can.
const NEWEST: ABI = ABI::V6;

/// Forbids this thread, and all that it starts, every file, TCP, abstract sockets and signals to
/// processes outside. What is open stays open. Gives the ABI in use, 0 when there is no Landlock.
pub fn forbid_everything() -> u32 {
    told(handled().and_then(RulesetCreated::restrict_self))
}

/// Does the same, but lets the process find, lock and remove files in `directory`.
pub fn allow_removal_in(directory: &Path) -> u32 {
    let access = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let restricted = handled().and_then(|ruleset| {
        let ruleset = match PathFd::new(directory) {
            Ok(opened) => ruleset.add_rule(PathBeneath::new(opened, access))?,
            Err(_) => ruleset,
        };
        ruleset.restrict_self()
    });
    told(restricted)
}

fn handled() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

fn told(restricted: Result<RestrictionStatus, RulesetError>) -> u32 {
    match restricted.map(|status| status.landlock) {
        Ok(LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        }) => kernel_abi
            .and_then(|abi| u32::try_from(abi).ok())
            .unwrap_or(effective_abi as u32),
        Ok(_) => {
            tracing::warn!("this kernel has no Landlock: the VM process goes without it");
            0
        }
        Err(error) => {
            tracing::warn!(%error, "Landlock does not hold this process");
            0
        }
    }
}

//! Checks of a host.

use serde::Serialize;

/// Result of all checks.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Doctor {
    /// True if VMs can run on this host as this user.
    pub vms_can_run: bool,
    /// Checks, in their order.
    pub checks: Vec<Check>,
}

/// Check and its result.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Name of the check.
    pub check: String,
    /// Result. With `missing` no VM can run.
    #[cfg_attr(test, schemars(extend("enum" = ["ok", "warn", "missing"])))]
    pub state: String,
    /// Finding, as a sentence.
    pub found: String,
    /// Remedy, unless all is well.
    pub remedy: Option<String>,
}

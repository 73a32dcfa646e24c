//! Options of the commands about VMs that run or have ended.

use std::time::Duration;

use clap::Args;

use super::{JsonFlag, VmNames};
use crate::values;

pub(super) const LOGS_EXAMPLES: &str = "\
Examples:
  nvvmm logs web
  nvvmm logs --follow web
  nvvmm logs --console web | tail -20";

/// `nvvmm logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Print the latest output of the guest's console, at most 64 KiB
    ///
    /// On a terminal, without the colours and other sequences that the terminal would obey.
    #[arg(long)]
    pub console: bool,
    /// Print what is added, until the VM ends
    #[arg(short, long)]
    pub follow: bool,
}

pub(super) const WAIT_HELP: &str = "\
Exit codes: 0 if each of the VMs ended because its guest or a user wanted it (switched off, \
rebooted with --on-reboot exit, stopped, ended with a snapshot); 1 if one of them was killed, \
failed, or took a triple fault, or if no record tells how it ended; 4 if one still runs at the end \
of the timeout.

Examples:
  nvvmm wait web && nvvmm start web
  nvvmm wait job-1 job-2 --timeout 1h";

/// `nvvmm wait`.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// The VMs.
    #[command(flatten)]
    pub names: VmNames,
    /// Longest wait, for example 30s or 5m; a number alone means seconds (default: none)
    #[arg(short, long, value_name = "TIME", value_parser = values::time_limit)]
    pub timeout: Option<Duration>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm start`.
#[derive(Clone, Debug, Args)]
pub struct StartAgainArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Print the status of the VM as JSON when it runs
    #[arg(long)]
    pub json: bool,
}

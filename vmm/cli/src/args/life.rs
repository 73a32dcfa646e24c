//! Options of the commands about VMs that run or have ended.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::JsonFlag;
use super::vm::VmNames;
use crate::names::NamePattern;
use crate::{completion, values};

/// `nvvmm ps`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PsArguments {
    /// List VMs that have ended, too: why and when
    ///
    /// A VM that has ended is listed until its name is used again, until 'nvvmm rm-vm', or until 64
    /// others have ended after it. ENDED is a time in UTC; it is - if nobody saw the end.
    #[arg(short, long)]
    pub all: bool,
    /// Show more columns: process, vCPUs, reboots, network, pool and console
    #[arg(short, long)]
    pub wide: bool,
    /// Print the names only, one on each line
    #[arg(short, long, conflicts_with_all = ["json", "wide"])]
    pub quiet: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const LOGS_EXAMPLES: &str = "\
Examples:
  nvvmm logs web
  nvvmm logs --follow web
  nvvmm logs --console web | tail -20";

/// `nvvmm logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::all_vms))]
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
  nvvmm wait job-1 job-2 --timeout 1h
  nvvmm wait 'job-*'";

/// `nvvmm wait`.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// The VMs. A pattern stands for VMs that run.
    #[command(flatten)]
    pub names: VmNames,
    /// Longest wait, for example 30s or 5m (default: none)
    #[arg(long, value_name = "TIME", value_parser = values::period)]
    pub timeout: Option<Duration>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm start`.
#[derive(Clone, Debug, Args)]
pub struct StartAgainArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::all_vms))]
    pub vm: String,
    /// Print the status of the VM as JSON when it runs
    #[arg(long)]
    pub json: bool,
}

/// `nvvmm rm-vm`.
#[derive(Clone, Debug, Args)]
pub struct RmVmArguments {
    /// Names of VMs that have ended. A pattern in quotes stands for several: 'job-*'
    #[arg(
        required_unless_present = "all",
        value_name = "VM",
        value_parser = values::vm_names,
        add = ArgValueCandidates::new(completion::past_vms),
        conflicts_with = "all",
    )]
    pub vms: Vec<NamePattern>,
    /// All VMs that have ended
    #[arg(short, long)]
    pub all: bool,
    /// Accept a pattern that matches nothing
    #[arg(short, long)]
    pub force: bool,
}

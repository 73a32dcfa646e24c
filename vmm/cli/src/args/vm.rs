//! Options of the commands on VMs: which of them, and their life.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion;
use crate::names::{Choice, NamePattern};
use crate::values;

/// The VMs that a command is for. `names` says how a command uses them.
#[derive(Debug, Args)]
pub struct VmNames {
    /// Names of VMs. A pattern in quotes stands for several: 'web-*'
    #[arg(
        required_unless_present = "all",
        value_name = "VM",
        value_parser = values::vm_names,
        add = ArgValueCandidates::new(completion::vms),
    )]
    pub vms: Vec<NamePattern>,
    /// All VMs
    #[arg(short, long, conflicts_with = "vms")]
    pub all: bool,
}

impl VmNames {
    /// The same for [`Chosen`](crate::names::Chosen). With `force` a pattern that matches nothing
    /// is no error.
    pub fn choice(&self, force: bool) -> Choice<'_> {
        Choice {
            given: &self.vms,
            all: self.all,
            force,
        }
    }
}

/// `nvvmm pause`, `nvvmm resume` and `nvvmm kill`.
#[derive(Debug, Args)]
pub struct VmsArguments {
    /// The VMs.
    #[command(flatten)]
    pub names: VmNames,
    /// Accept a pattern that matches nothing
    #[arg(short, long)]
    pub force: bool,
}

/// `nvvmm stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// The VMs.
    #[command(flatten)]
    pub names: VmNames,
    /// Kill a VM process that does not answer, as 'nvvmm kill' does. The pool takes back its
    /// blocks. Also accept a pattern that matches nothing
    #[arg(short, long)]
    pub force: bool,
}

/// `nvvmm shutdown`.
#[derive(Debug, Args)]
pub struct ShutdownArguments {
    /// The VMs.
    #[command(flatten)]
    pub names: VmNames,
    /// Time for the guest to shut down, for example 90s or 2m; a number alone means seconds
    #[arg(
        short,
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = values::time_limit,
    )]
    pub timeout: Duration,
    /// Kill the VM process if the guest has not shut down in time. Also accept a pattern that
    /// matches nothing
    #[arg(short, long)]
    pub force: bool,
}

pub(super) const STOP_EXAMPLES: &str = "\
Examples:
  nvvmm stop web db
  nvvmm stop 'web-*'
      Ends all VMs whose names begin with web-. Without the quotes the shell would replace the
      pattern by names of files.
  nvvmm stop --all";

pub(super) const KILL_EXAMPLES: &str = "\
Examples:
  nvvmm kill web
  nvvmm kill 'job-*' --force
      Succeeds also when there is no such VM.";

pub(super) const SHUTDOWN_EXAMPLES: &str = "\
Examples:
  nvvmm shutdown web
  nvvmm shutdown --all --timeout 2m --force
      Kills those that have not shut down after two minutes.";

//! Options of the commands that show a VM or reach into its guest.

use std::ffi::OsString;

use clap::Args;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};
use nvvmm::stats::ExporterAddress;

use super::JsonFlag;
use crate::completion;
use crate::values::{self, CopyPlace};

/// `nvvmm stats`.
#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Serve the counters to Prometheus at the path /metrics, in its text format, until a signal
    /// ends the command
    ///
    /// The address is unix:PATH (only the owner can connect), 127.0.0.1:PORT or [::1]:PORT (all
    /// users of this host can connect). Other addresses are refused. The VM is read at each scrape.
    /// While no VM of that name answers, nvvmm_up is 0.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "json")]
    pub prometheus: Option<ExporterAddress>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const STATS_EXAMPLES: &str = "\
Examples:
  nvvmm stats web
  nvvmm stats web --prometheus 127.0.0.1:9180
  nvvmm stats web --prometheus unix:/run/web.metrics";

pub(super) const EXEC_EXAMPLES: &str = "\
The exit code is that of the program. If a signal ended the program, it is 128 plus the number of \
the signal. It is 127 if the program does not exist, 126 if it cannot be run, and 255 if nvvmm or \
the agent failed.

Examples:
  nvvmm exec web -- systemctl status nginx
  nvvmm exec -it web -- bash
  tar c site | nvvmm exec web -- tar x -C /srv";

pub(super) const CP_EXAMPLES: &str = "\
Examples:
  nvvmm cp nginx.conf web:/etc/nginx/
  nvvmm cp web:/var/log/nginx/error.log .
  nvvmm cp -r site web:/srv/
  nvvmm cp web:/proc/meminfo - | grep Free
  gunzip -c dump.gz | nvvmm cp - web:/srv/dump";

/// `nvvmm cp`.
#[derive(Debug, Args)]
pub struct CpArguments {
    /// File to copy: a local path, VM:PATH, or - for standard input
    #[arg(
        value_name = "FROM",
        value_parser = values::copy_place,
        add = ArgValueCompleter::new(completion::places),
    )]
    pub from: CopyPlace,
    /// Target: a local path, VM:PATH, or - for standard output
    #[arg(
        value_name = "TO",
        value_parser = values::copy_place,
        add = ArgValueCompleter::new(completion::places),
    )]
    pub to: CopyPlace,
    /// Copy a directory with all that is in it. The guest needs 'sh' and 'tar'
    ///
    /// Links stay links. If TO is a directory, the copy goes into it. A directory of this host is
    /// never replaced.
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// Replace a local file that exists
    #[arg(short, long)]
    pub force: bool,
}

/// `nvvmm exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Give the program a terminal, connected to this one; all keys go to the program
    #[arg(short, long = "tty")]
    pub terminal: bool,
    /// Accepted as in 'docker exec -it': stdin goes to the program in any case
    #[arg(short, long)]
    pub interactive: bool,
    /// Environment variable for the program; repeat it for more
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = values::variable)]
    pub environment: Vec<(String, String)>,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

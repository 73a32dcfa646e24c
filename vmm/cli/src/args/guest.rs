//! What the commands that look at a VM, or into its guest, can be asked.

use std::ffi::OsString;

use clap::Args;
use nvvmm::stats::ExporterAddress;

use super::JsonFlag;
use crate::values;

/// `nvvmm stats`.
#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Serve the counts as metrics, in Prometheus's text format at the path /metrics, until a
    /// signal ends it
    ///
    /// unix:PATH, for its owner alone, or 127.0.0.1:PORT or [::1]:PORT, for all users of this
    /// host; other addresses are refused. The VM is asked at each scrape; while no VM of that
    /// name answers, nvvmm_up is 0.
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
Exit code: the program's; 128 and its number for a program that a signal ended; 127 when there is no such program, \
126 when it cannot be run; 255 when nvvmm or the agent failed.

Examples:
  nvvmm exec web -- systemctl status nginx
  nvvmm exec --tty web -- bash
  tar c site | nvvmm exec web -- tar x -C /srv";

pub(super) const CP_EXAMPLES: &str = "\
Examples:
  nvvmm cp nginx.conf web:/etc/nginx/
  nvvmm cp web:/var/log/nginx/error.log .";

/// `nvvmm exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Give the program a terminal: this one, with its size and all its keys
    #[arg(short, long = "tty")]
    pub terminal: bool,
    /// A variable for the program; repeatable
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

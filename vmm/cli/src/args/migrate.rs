//! Options of the commands that move a running VM to another host.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{JsonFlag, PoolOption};
use crate::migrate::Host;
use crate::{completion, values, whole_number};

pub(super) const MIGRATE_HELP: &str = "\
Memory, machine and disks of the pool go; image files do not, and a VM with them is refused. The VM
runs on while its memory is sent, round by round. Then it stands still for the last difference. If
anything fails, the VM goes on here. The other host needs this version of nvvmm in its PATH.

There the VM counts as one from elsewhere: its reboot needs '-- --kernel FILE'. What leads out of
it, such as ports, is given anew.

Examples:
  nvvmm migrate web ssh://other
  nvvmm migrate web ssh://root@other:2222 --to-pool /mnt/pmem/vms.pool
  nvvmm migrate web ssh://other -- --net -p 8080:80
      Options behind '--' are for 'nvvmm restore' on the other host.";

/// `nvvmm migrate`.
#[derive(Debug, Args)]
pub struct MigrateArguments {
    /// Name of the VM, here and on the other host
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// The other host: ssh://HOST or ssh://USER@HOST:PORT
    #[arg(value_name = "HOST")]
    pub host: Host,
    /// Pool of the other host (default: that of its user)
    #[arg(long, value_name = "FILE")]
    pub to_pool: Option<String>,
    /// Send at most so many differences while the VM runs, 1 to 100
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "8",
        value_parser = whole_number::between::<u32>(1..=100),
    )]
    pub rounds: u32,
    /// Pause the VM when a difference is no larger than this
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = values::size)]
    pub until: u64,
    /// Compression level of zstd
    #[arg(
        long,
        value_name = "1-19",
        default_value = "1",
        value_parser = whole_number::between::<i32>(1..=19),
    )]
    pub level: i32,
    /// Give up when the other host says nothing for so long
    #[arg(
        long = "timeout",
        value_name = "TIME",
        default_value = "30s",
        value_parser = values::time_limit,
    )]
    pub silence: Duration,
    /// Program that reaches the other host. It is called as 'ssh [-p PORT] -- HOST COMMAND'
    #[arg(long, value_name = "PROGRAM", default_value = "ssh")]
    pub ssh: String,
    /// nvvmm on the other host
    #[arg(long, value_name = "PROGRAM", default_value = "nvvmm")]
    pub program: String,
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
    /// Options for 'nvvmm restore' on the other host
    #[arg(last = true, value_name = "ARG")]
    pub options: Vec<String>,
}

/// `nvvmm arrive`, which 'nvvmm migrate' starts on the other host.
#[derive(Debug, Args)]
pub struct ArriveArguments {
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// Receive snapshots only: the process that does so is confined
    #[arg(long)]
    pub receiver: bool,
    /// Options for 'nvvmm restore'
    #[arg(last = true, value_name = "ARG")]
    pub options: Vec<String>,
}

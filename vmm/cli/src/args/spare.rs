//! Options of `nvvmm spare`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{JsonFlag, PoolOption};
use crate::{completion, values, whole_number};

pub(super) const SPARE_HELP: &str = "\
A spare VM costs no CPU time, about 2 MiB of memory, and one of the 256 places for VMs of the pool.
It takes the limits, the priority and the environment of the command that started it. It fits a
'nvvmm restore --detach' without --once, --prefault, --disk, --kernel, --uid, --no-sandbox and
--on-reboot exit. A snapshot of a machine with disks can have none: they would be locked. 'nvvmm rm'
of the snapshot and 'nvvmm stop --all' end spare VMs, too.

Examples:
  nvvmm spare base --count 4
      Builds four VMs of 'base' and has them stand by. 'nvvmm restore base --detach' takes one, and
      another is built in its place.
  nvvmm spare
      Lists how many are wanted, and how many stand by.
  nvvmm spare base --count 0
      Ends them.";

/// `nvvmm spare`.
#[derive(Debug, Args)]
pub struct SpareArguments {
    /// Name of the snapshot; without it, all snapshots with spare VMs are listed
    #[arg(
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots),
        requires = "work",
    )]
    pub snapshot: Option<String>,
    /// Number of VMs that are to stand by, 0 to 250
    #[arg(
        short,
        long,
        value_name = "COUNT",
        value_parser = whole_number::between::<u32>(0..=250),
        requires = "snapshot",
        group = "work",
    )]
    pub count: Option<u32>,
    /// Build as many as are missing, in the background
    #[arg(
        long,
        hide = true,
        requires = "snapshot",
        group = "work",
        conflicts_with = "count"
    )]
    pub refill: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

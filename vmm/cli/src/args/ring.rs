//! What the commands of the ring of checkpoints can be asked.

use std::time::Duration;

use clap::Args;
use nvvmm_snapshot::Durability;

use super::JsonFlag;
use crate::values;

pub(super) const CHECKPOINT_EXAMPLES: &str = "\
Examples:
  nvvmm checkpoint web --every 10ms --keep 8
      100 times a second; 'nvvmm ps' shows how it goes
  nvvmm rewind web -n 3
      the VM goes on from the third newest
  nvvmm restore web@1207 --name copy
      a checkpoint is a snapshot like any other
  nvvmm checkpoint web --stop
      the checkpoints stay";

/// `nvvmm checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Time between the beginnings of two checkpoints, such as 10ms or 5s; 0: as often as can be
    ///
    /// The VM process takes them by itself, until it ends, until --stop, or until it cannot (the
    /// pool is full: the guest goes on, and 'nvvmm ps' says so). None is taken while the VM is
    /// paused, or while a process of its guest is captured or restarted.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::period)]
    pub every: Duration,
    /// How many are kept; the commit that adds one removes the oldest
    ///
    /// They are snapshots named VM@1, VM@2, and so on. Those that the pool has of a VM of this
    /// name count too.
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub keep: u32,
    /// Refuse unless each checkpoint then survives: the end of any process, a crash or restart of
    /// the host, or a power cut
    #[arg(long, value_name = "process|host|power")]
    pub durability: Option<Durability>,
    /// End it; the checkpoints stay
    #[arg(long, conflicts_with_all = ["every", "keep", "durability", "watch"])]
    pub stop: bool,
    /// Stay, and print every second how it goes; Ctrl-C ends the printing only
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const REWIND_EXAMPLES: &str = "\
Examples:
  nvvmm rewind web
      to the newest checkpoint
  nvvmm rewind web -n 3
      to the third newest; those after it stay, so that one can go forward again
  nvvmm rewind web --to before-upgrade
      to a snapshot";

/// `nvvmm rewind`.
#[derive(Debug, Args)]
pub struct RewindArguments {
    /// Name of the VM
    ///
    /// It stays the same VM, with its process, console and sockets. Streams between host and guest
    /// break, as with any restore. Refused for a VM that writes to disks: their content does
    /// not go back.
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// To which checkpoint: 1 is the newest
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoints: u32,
    /// To the snapshot of this name, which must be of a machine like this VM's
    #[arg(long, value_name = "NAME", value_parser = values::snapshot_name, conflicts_with = "checkpoints")]
    pub to: Option<String>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

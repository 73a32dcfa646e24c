//! Options of the commands about the ring of checkpoints.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use nvvmm_snapshot::Durability;

use super::{ClockChoice, JsonFlag};
use crate::completion;
use crate::{values, whole_number};

pub(super) const CHECKPOINT_EXAMPLES: &str = "\
Examples:
  nvvmm checkpoint web --every 10ms --keep 8
      Takes 100 checkpoints a second; 'nvvmm ps' shows the progress.
  nvvmm rewind web -n 3
      Takes the VM back to the third newest checkpoint.
  nvvmm restore web@1207 --name copy
      Starts a second VM: a checkpoint is a snapshot like any other.
  nvvmm checkpoint web --stop
      Takes no more checkpoints. Those that exist stay.";

/// `nvvmm checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Interval from the start of one checkpoint to the start of the next, for example 10ms or 5s;
    /// 0 starts the next one at once
    ///
    /// The VM process takes the checkpoints itself until it ends, or until --stop. It also stops if
    /// the pool is full: then the guest runs on, and 'nvvmm ps' shows the reason. No checkpoint is
    /// taken while the VM is paused, or while a process of its guest is captured or restarted.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::period)]
    pub every: Duration,
    /// Number of checkpoints to keep. Each new checkpoint removes the oldest
    ///
    /// Checkpoints are snapshots with the names VM@1, VM@2, and so on. A VM that was restored from
    /// one of them goes on with the ring: the older ones count too.
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "8",
        value_parser = whole_number::between::<u32>(1..=1000),
    )]
    pub keep: u32,
    /// Remove the checkpoints that an earlier VM of the same name left. Without this option the
    /// command is refused if there are any
    #[arg(long)]
    pub replace: bool,
    /// Require that each checkpoint survives the end of any process, a crash or restart of the
    /// host, or a power cut. The command fails if the pool cannot do that
    #[arg(long, value_parser = values::durability())]
    pub durability: Option<Durability>,
    /// Take no more checkpoints. Those that exist stay
    #[arg(long, conflicts_with_all = ["every", "keep", "replace", "durability", "watch"])]
    pub stop: bool,
    /// Print the progress every second, with --json as one object a line. Ctrl-C ends only the
    /// printing
    #[arg(long)]
    pub watch: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const REWIND_EXAMPLES: &str = "\
Examples:
  nvvmm rewind web
      Goes back to the newest checkpoint.
  nvvmm rewind web -n 3
      Goes back to the third newest. Newer checkpoints stay, so you can go forward again.
  nvvmm rewind web --to before-upgrade
      Goes back to a snapshot.";

/// `nvvmm rewind`.
#[derive(Debug, Args)]
pub struct RewindArguments {
    /// Name of the VM
    ///
    /// The VM keeps its process, console and sockets. Connections between host and guest break, as
    /// with any restore. The command is refused if a disk of the VM was written since, because the
    /// disk does not go back.
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Number of the checkpoint, counted from the newest (1). Checkpoints of an earlier VM of the
    /// same name do not count: name them with --to
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        default_value = "1",
        value_parser = whole_number::between::<u32>(1..=u32::MAX),
    )]
    pub checkpoints: u32,
    /// Go back to the snapshot of this name. Its machine must be like that of this VM
    #[arg(
        long,
        value_name = "NAME",
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots),
        conflicts_with = "checkpoints",
    )]
    pub to: Option<String>,
    /// Go back even if a disk was written since: file systems on it may break
    #[arg(long)]
    pub stale_disks: bool,
    /// Time of day in the guest: step has the nvvmm-agent in the guest set it to the time of the
    /// host; keep goes on from the time of the checkpoint
    #[arg(long, value_enum, default_value = "step")]
    pub clock: ClockChoice,
    /// Leave the guest's TCP connections to other machines as they are. By default the nvvmm-agent
    /// in the guest ends them, as their other ends do not go back
    ///
    /// The command waits up to 5 seconds for the agent, and prints a warning if it has not answered
    /// or is too old to keep them.
    #[arg(long)]
    pub keep_connections: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

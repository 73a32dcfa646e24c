//! Options of the commands about snapshots.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::ArgPredicate;
use clap_complete::engine::ArgValueCandidates;
use nvvmm_snapshot::Durability;

use super::{JsonFlag, PoolOption};
use crate::completion;
use crate::names::{Choice, NamePattern};
use crate::{values, whole_number};

pub(super) const SNAPSHOT_EXAMPLES: &str = "\
Examples:
  nvvmm snapshot web before-upgrade
      The VM pauses for a moment and runs on.
  nvvmm snapshot web suspended --stop
      The VM ends; 'nvvmm restore suspended --once' continues it.
  nvvmm snapshot web job-1 --process 4711 --kill
      Captures one process of the guest; 'nvvmm restore job-1 --into VM' restarts it.
  nvvmm snapshot web --process 4711 --tree --check
      Says if that could be captured, and what would come back otherwise than it is.";

/// `nvvmm snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Name of the new snapshot, up to 128 of A-Z a-z 0-9 . _ -
    #[arg(
        value_parser = values::new_snapshot_name,
        required = false,
        required_unless_present = "check",
        default_value_if("check", ArgPredicate::IsPresent, "unnamed"),
    )]
    pub name: String,
    /// End the VM after the snapshot. By default it runs on
    #[arg(long)]
    pub stop: bool,
    /// Take the disks of the pool only, without memory. The VM runs on
    ///
    /// The snapshot has all of them at one instant, as a power failure would leave them.
    /// 'nvvmm disk copy NAME:DISK NEW' makes a disk of one.
    #[arg(long, conflicts_with_all = ["stop", "process"])]
    pub disks_only: bool,
    /// Capture the process with this id in the guest, not the whole VM. The guest must run
    /// nvvmm-agent
    ///
    /// The memory of the process is not copied. Open files are saved by name only: they must exist
    /// when the process is restarted. If the process uses something that cannot be captured, for
    /// example a network connection, the command fails and names it.
    #[arg(
        long,
        value_name = "PID",
        value_parser = whole_number::between::<i32>(1..=i32::MAX as u32),
        conflicts_with_all = ["stop", "verify"],
    )]
    pub process: Option<i32>,
    /// Capture its descendants too: all processes that it has started
    #[arg(long, requires = "process")]
    pub tree: bool,
    /// Leave the process stopped, as SIGSTOP does
    #[arg(long, requires = "process", conflicts_with = "kill")]
    pub leave_stopped: bool,
    /// Kill the process when the snapshot is complete
    #[arg(long, requires = "process")]
    pub kill: bool,
    /// Say if the process could be captured, and what would come back otherwise than it is. Nothing
    /// is stopped, and there is no snapshot
    ///
    /// Some things are found only when the process stands still, such as Landlock and keys.
    #[arg(long, requires = "process", conflicts_with_all = ["name", "durability"])]
    pub check: bool,
    /// Require that the snapshot survives the end of any process, a crash or restart of the host,
    /// or a power cut. The command fails if the pool cannot do that; 'nvvmm pool status' shows
    /// what it can. By default a snapshot survives as much as the pool can do
    #[arg(long, value_parser = values::durability())]
    pub durability: Option<Durability>,
    /// Compute the digests of the new blocks before the command returns ('nvvmm pool scrub' needs
    /// them)
    ///
    /// By default the VM process computes them in the background after the snapshot. It uses at
    /// most a fifth of one CPU for this.
    #[arg(long)]
    pub verify: bool,
    /// Do not run the guest's hooks
    ///
    /// A guest with nvvmm-agent runs the programs in /etc/nvvmm/snapshot.d before the snapshot,
    /// with the argument 'before', and after it, with 'after'. If one fails before, there is no
    /// snapshot.
    #[arg(long, conflicts_with = "process")]
    pub no_hooks: bool,
    /// Time that the guest's hooks may take before the snapshot, and again after it
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = values::time_limit,
        conflicts_with_all = ["process", "no_hooks"],
    )]
    pub hooks_timeout: Duration,
    /// Wait until the guest has given back the memory that it has freed, at most for this time.
    /// The snapshot is smaller then
    ///
    /// Linux reports freed memory in steps of two seconds. The wait ends when no report has come
    /// for 3.5 seconds. A guest that is paused or reports nothing is not waited for.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::time_limit,
        conflicts_with_all = ["process", "disks_only"],
    )]
    pub wait_freed: Option<Duration>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const EXPORT_HELP: &str = "\
The core file has each vCPU as a thread (1 and up) with its registers. It has all guest RAM by \
physical address. It also has RAM by virtual address, as the page tables of one vCPU map it: the \
first vCPU in kernel mode, else vCPU 1. The file is as sparse as the snapshot. It contains all \
secrets that the guest had in memory; only its owner can read it.

gdb finds the symbols of a kernel or program that runs at its link address (Linux: boot with \
nokaslr). For a Linux guest the file has the note VMCOREINFO, from which drgn and crash read the \
kernel's release and address.

Examples:
  nvvmm export before-upgrade --core web.core
      gdb vmlinux web.core -ex 'info threads' -ex 'thread apply all bt'
      drgn -c web.core -s vmlinux
  nvvmm export before-upgrade --core - | zstd > web.core.zst";

/// `nvvmm export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Name of the snapshot, which must be of a VM
    #[arg(
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    pub snapshot: String,
    /// Path of the ELF core file; - for stdout
    #[arg(long, value_name = "FILE")]
    pub core: PathBuf,
    /// Replace the file if it exists
    #[arg(short, long)]
    pub force: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const DIFF_EXAMPLES: &str = "\
Examples:
  nvvmm diff before-upgrade after-upgrade
  nvvmm diff web@1206 web@1207 --json | jq .different_bytes";

/// `nvvmm adopt`.
#[derive(Debug, Args)]
pub struct AdoptArguments {
    /// Name of the snapshot
    #[arg(
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    pub snapshot: String,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const RM_EXAMPLES: &str = "\
Examples:
  nvvmm rm before-upgrade after-upgrade
  nvvmm rm 'web@*' --dry-run
      Shows which checkpoints of the VM web would be removed.
  nvvmm rm 'web@*'
      Without the quotes the shell would replace the pattern by names of files.
  nvvmm rm --all --pool /dev/shm/old.pool";

/// `nvvmm rm`.
#[derive(Debug, Args)]
pub struct RmArguments {
    /// Names of the snapshots. A pattern in quotes stands for several: 'web@*'
    #[arg(
        required_unless_present = "all",
        value_name = "NAME",
        value_parser = values::snapshot_names,
        add = ArgValueCandidates::new(completion::snapshots),
    )]
    pub names: Vec<NamePattern>,
    /// All snapshots of the pool
    #[arg(short, long, conflicts_with = "names")]
    pub all: bool,
    /// Accept names and patterns that match nothing
    #[arg(short, long)]
    pub force: bool,
    /// Remove nothing: print the names of the snapshots that would be removed
    #[arg(short = 'n', long, conflicts_with = "json")]
    pub dry_run: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

impl RmArguments {
    /// The snapshots that are meant.
    pub fn choice(&self) -> Choice<'_> {
        Choice {
            given: &self.names,
            all: self.all,
            force: self.force,
        }
    }
}

//! What the commands about snapshots can be asked.

use std::path::PathBuf;

use clap::Args;
use nvvmm_snapshot::Durability;

use super::{JsonFlag, PoolOption};
use crate::values;

pub(super) const SNAPSHOT_EXAMPLES: &str = "\
Examples:
  nvvmm snapshot web before-upgrade
      the VM stands still for a moment and goes on
  nvvmm snapshot web suspended --stop
      the VM ends; 'nvvmm restore suspended --once' continues it
  nvvmm snapshot web job-1 --process 4711 --kill
      one process of its guest; 'nvvmm restore job-1 --into VM' continues it";

/// `nvvmm snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Name of the new snapshot, up to 128 of A-Z a-z 0-9 . _ -
    #[arg(value_parser = values::new_snapshot_name)]
    pub name: String,
    /// End the VM after the snapshot instead of letting it go on
    #[arg(long)]
    pub stop: bool,
    /// Take the process with this number in the guest, instead of the whole VM; the guest must run
    /// nvvmm-agent
    ///
    /// Its memory becomes part of the pool without being copied. What it has open is noted, not
    /// kept: files must be there when it is restarted. What cannot be captured (a network
    /// connection, for one) is refused by name.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..), conflicts_with_all = ["stop", "verify"])]
    pub process: Option<i32>,
    /// With all processes that it has started
    #[arg(long, requires = "process")]
    pub tree: bool,
    /// Leave the process stopped, as by SIGSTOP
    #[arg(long, requires = "process", conflicts_with = "kill")]
    pub leave_stopped: bool,
    /// Kill the process once its snapshot is there
    #[arg(long, requires = "process")]
    pub kill: bool,
    /// Refuse unless the snapshot then survives: the end of any process, a crash or restart of the
    /// host, or a power cut. Without this it survives what the pool can ('nvvmm pool status'
    /// says what that is)
    #[arg(long, value_name = "process|host|power")]
    pub durability: Option<Durability>,
    /// Return when the new blocks have digests for 'nvvmm pool scrub'
    ///
    /// Without it they are made in the background after the snapshot, at a fifth of one CPU at
    /// most.
    #[arg(long)]
    pub verify: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const EXPORT_HELP: &str = "\
The core has the vCPUs as threads, 1 and up, with their registers. All of RAM is in it by guest physical address, and what
the page tables of a vCPU map (of the first in kernel mode, else the first) by virtual address. It is as sparse as the
snapshot, and holds all that the guest had in memory: it is for its owner to read.

gdb finds what a kernel's or program's symbols name, if it was not moved (for Linux: nokaslr). Of a Linux it has VMCOREINFO,
which drgn and crash take a kernel's release and place from.

Examples:
  nvvmm export before-upgrade --core web.core
      gdb vmlinux web.core -ex 'info threads' -ex 'thread apply all bt'
      drgn -c web.core -s vmlinux
  nvvmm export before-upgrade --core - | zstd > web.core.zst";

/// `nvvmm export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Name of the snapshot, of a VM
    #[arg(value_parser = values::snapshot_name)]
    pub snapshot: String,
    /// Write an ELF core file; - for stdout
    #[arg(long, value_name = "FILE")]
    pub core: PathBuf,
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
  nvvmm diff web@1206 web@1207 --json | jq .frames_different";

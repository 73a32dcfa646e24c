//! What can be asked on the command line, and the help that teaches it.

mod bench;
mod guest;
mod launch;
mod moving;
mod pool;
mod ring;
mod snapshot;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::{
    bench::BENCH_HELP,
    guest::{CP_EXAMPLES, EXEC_EXAMPLES, STATS_EXAMPLES},
    launch::{RESTORE_EXAMPLES, RUN_EXAMPLES},
    moving::{RECEIVE_EXAMPLES, SEND_EXAMPLES},
    ring::{CHECKPOINT_EXAMPLES, REWIND_EXAMPLES},
    snapshot::{DIFF_EXAMPLES, EXPORT_HELP, SNAPSHOT_EXAMPLES},
};
pub use self::{
    bench::BenchArguments,
    guest::{ExecArguments, StatsArguments},
    launch::{ClockChoice, ConsoleChoice, RestoreArguments, RunArguments, StartArguments},
    moving::{ReceiveArguments, SendArguments},
    pool::{PoolCommand, PoolOption},
    ring::{CheckpointArguments, RewindArguments},
    snapshot::{ExportArguments, SnapshotArguments},
};
use super::values;

const ABOUT: &str = "Checkpointer for virtual machines: snapshots by reference on Linux KVM";

const HELP_START: &str = "\
A VM's memory lives in a pool, a file on tmpfs or persistent memory. A snapshot shares the memory with the pool by \
reference instead of copying it: the VM stands still for a moment and goes on, and only what it then writes costs \
space. A restore maps the snapshot and runs; one snapshot can be restored many times, side by side.";

const HELP_END: &str = "\
First steps:
  nvvmm run --kernel vmlinuz --initramfs initrd.img --name web --detach
  nvvmm snapshot web base            a snapshot of the running VM; it goes on
  nvvmm restore base --name copy     a second VM that continues from that moment
  nvvmm ps                           the VMs
  nvvmm snapshots                    the snapshots
  nvvmm stop web

Environment:
  NVVMM_POOL          the pool, when --pool is not given; without both it is
                      /dev/shm/nvvmm-<user>.pool, made when it is first needed
  NVVMM_RUNTIME_DIR   directory of the control sockets (else $XDG_RUNTIME_DIR/nvvmm,
                      /run/nvvmm for root, /tmp/nvvmm-<uid>)
  NVVMM_LOG           log filter, for example debug or nvvmm::cow=trace,info

States of a VM (nvvmm ps):
  booting    being built; the guest has not run yet
  running    the guest runs
  paused     by 'nvvmm pause'
  no-space   the pool is full and the guest needs a block: it stands still, and
             goes on by itself when there is space (rm, pool grow, another VM ends)
  stopping   the VM process is about to end

Exit codes:
  0  done
  1  failed
  2  the command makes no sense as given
  3  no such VM, snapshot, pool or file
  4  refused: name taken, busy, or not possible in this state
  5  the pool, or the medium behind it, is full
  6  the pool is damaged or is none, or 'pool check' or 'pool scrub'
     found something
  7  the host lacks something: /dev/kvm, permission for userfaultfd, a newer
     kernel, CPU features of the snapshot";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "nvvmm", version, about = ABOUT, long_about = HELP_START, after_long_help = HELP_END)]
#[command(max_term_width = 110)]
pub struct Arguments {
    /// Log more to stderr: -v what is done, -vv how, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a new VM
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Start a VM from a snapshot
    #[command(after_long_help = RESTORE_EXAMPLES)]
    Restore(RestoreArguments),
    /// List the running VMs
    ///
    /// STATE is booting, running, paused or stopping; starting for one whose control socket is not
    /// there yet, silent for one that does not answer. OWN is the memory that only this VM has,
    /// SHARED what it has in common with snapshots. With --json, a VM that answers is one
    /// object with all its counters.
    Ps(JsonFlag),
    /// Show what a running VM counts: faults, copies, calls to the kernel, snapshots, and how long
    /// they took
    ///
    /// Nothing is asked of the guest. A histogram has a line for each power of two of a
    /// microsecond.
    #[command(after_long_help = STATS_EXAMPLES)]
    Stats(StatsArguments),
    /// Stop a VM's vCPUs and devices until it is resumed
    Pause {
        /// Name of the VM
        #[arg(value_parser = values::vm_name)]
        vm: String,
    },
    /// Let a paused VM go on
    Resume {
        /// Name of the VM
        #[arg(value_parser = values::vm_name)]
        vm: String,
    },
    /// End a VM; what was not snapshotted is lost
    ///
    /// Ends the VM process in good order and waits until it is gone. The guest is not asked: to
    /// keep its file systems clean, switch it off from inside, or snapshot it with --stop.
    Stop {
        /// Name of the VM
        #[arg(value_parser = values::vm_name)]
        vm: String,
        /// Kill the VM process, for one that does not answer; the pool takes back what it held
        #[arg(long)]
        force: bool,
    },
    /// Talk to a VM's serial console; Ctrl-] leaves it
    Console {
        /// Name of the VM
        #[arg(value_parser = values::vm_name)]
        vm: String,
    },
    /// Run a program in a VM's guest, which must run nvvmm-agent
    #[command(after_long_help = EXEC_EXAMPLES)]
    Exec(ExecArguments),
    /// Copy a file into a VM's guest or out of it; the guest must run nvvmm-agent
    ///
    /// One of the two places is VM:PATH. A file that is copied to a directory keeps its name;
    /// permissions are carried over. A local path with a colon is written ./like:this.
    #[command(after_long_help = CP_EXAMPLES)]
    Cp {
        /// What to copy
        #[arg(value_name = "FROM", value_parser = values::copy_place)]
        from: values::CopyPlace,
        /// Where to
        #[arg(value_name = "TO", value_parser = values::copy_place)]
        to: values::CopyPlace,
    },
    /// Take a snapshot of a running or paused VM
    #[command(after_long_help = SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotArguments),
    /// Checkpoint a running VM again and again, keeping the newest few
    #[command(after_long_help = CHECKPOINT_EXAMPLES)]
    Checkpoint(CheckpointArguments),
    /// Take a VM back to a checkpoint
    #[command(after_long_help = REWIND_EXAMPLES)]
    Rewind(RewindArguments),
    /// For tests: holds KVM's dirty log since the last snapshot against the COW engine. The VM must
    /// have been started with NVVMM_TEST_DIRTY_LOG in its environment.
    #[command(hide = true)]
    Audit {
        /// The VM.
        vm: String,
        /// How to print it; JSON in any case.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// List the snapshots of a pool as a tree
    ///
    /// OWN is the space that removing the snapshot would free; SHARED is what it has in common with
    /// other snapshots. Every snapshot is complete: any of them can be removed in any order.
    Snapshots {
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Decode what a snapshot is made of: inode, map, vCPUs, devices; without a name the pool
    /// itself
    ///
    /// Nothing is changed, and no VM is needed. docs/formats/pool.md says what it means.
    Inspect {
        /// Name of the snapshot
        #[arg(value_parser = values::snapshot_name)]
        snapshot: Option<String>,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// List the frames in which two snapshots differ
    ///
    /// By guest frame number, or page of a process's image. Frames whose block both have are not
    /// read; the others are compared byte by byte. A frame that one of them does not have is
    /// one of zeros.
    #[command(after_long_help = DIFF_EXAMPLES)]
    Diff {
        /// Name of one snapshot
        #[arg(value_parser = values::snapshot_name)]
        from: String,
        /// Name of the other
        #[arg(value_parser = values::snapshot_name)]
        to: String,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Write a snapshot as a stream, to be received in another pool
    ///
    /// The stream says itself what it is, is compressed and has checksums. Memory that was never
    /// written, and frames of zeros, are not in it.
    #[command(after_long_help = SEND_EXAMPLES)]
    Send(SendArguments),
    /// Make a snapshot of what 'nvvmm send' wrote
    ///
    /// It is there when all has arrived, and not before. A stream that is not whole is refused as a
    /// whole. What a reception that was interrupted had stored is kept, cannot be used, and is
    /// not stored again when the snapshot is sent again.
    #[command(after_long_help = RECEIVE_EXAMPLES)]
    Receive(ReceiveArguments),
    /// Write a VM's snapshot as a core file, for debuggers
    #[command(after_long_help = EXPORT_HELP)]
    Export(ExportArguments),
    /// Remove snapshots
    ///
    /// Also one that a VM still runs from: its name goes at once, its space when that VM needs it
    /// no more.
    Rm {
        /// Names of the snapshots
        #[arg(required = true, value_name = "NAME", value_parser = values::snapshot_name)]
        names: Vec<String>,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Make, grow, look at and check pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Print what a shell needs to complete nvvmm's commands
    ///
    /// scripts/install.sh puts it where the shell looks for it.
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, one for each command
    Man {
        /// Directory for them, made when missing
        dir: PathBuf,
    },
    /// Measure checkpoints and restarts on this host, beside copying, and draw them
    #[command(after_long_help = BENCH_HELP)]
    Bench(BenchArguments),
}

/// `--json`.
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonFlag {
    /// Print JSON: sizes in bytes, times with their unit in the name
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
#[path = "args_test.rs"]
mod args_test;

//! Commands and options of the command line, and their help.

mod bench;
mod disk;
mod guest;
mod launch;
mod life;
mod memory;
mod migrate;
mod moving;
mod net;
mod pool;
mod remote;
mod ring;
mod snapshot;
mod spare;
mod vm;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use self::{
    bench::BENCH_HELP,
    guest::{CP_EXAMPLES, EXEC_EXAMPLES, STATS_EXAMPLES},
    launch::{RESTORE_EXAMPLES, RUN_EXAMPLES},
    life::{LOGS_EXAMPLES, WAIT_HELP},
    memory::MEMORY_EXAMPLES,
    migrate::MIGRATE_HELP,
    moving::{RECEIVE_EXAMPLES, SEND_EXAMPLES},
    remote::{PULL_EXAMPLES, PUSH_HELP, REPLICATE_HELP},
    ring::{CHECKPOINT_EXAMPLES, REWIND_EXAMPLES},
    snapshot::{DIFF_EXAMPLES, EXPORT_HELP, RM_EXAMPLES, SNAPSHOT_EXAMPLES},
    spare::SPARE_HELP,
    vm::{KILL_EXAMPLES, SHUTDOWN_EXAMPLES, STOP_EXAMPLES},
};
pub use self::{
    bench::BenchArguments,
    disk::{DiskCommand, DiskExportArguments, DiskImportArguments, DiskRmArguments},
    guest::{CpArguments, ExecArguments, StatsArguments},
    launch::{
        ClockChoice, ConsoleChoice, RebootChoice, RestoreArguments, RunArguments, StartArguments,
    },
    life::{LogsArguments, PsArguments, RmVmArguments, StartAgainArguments, WaitArguments},
    memory::MemoryArguments,
    migrate::{ArriveArguments, MigrateArguments},
    moving::{ReceiveArguments, SendArguments},
    net::{NetArguments, PortArguments},
    pool::{PoolCommand, PoolOption},
    remote::{PullArguments, PushArguments, RemoteCommand, ReplicateArguments, StoreOption},
    ring::{CheckpointArguments, RewindArguments},
    snapshot::{AdoptArguments, ExportArguments, RmArguments, SnapshotArguments},
    spare::SpareArguments,
    vm::{ShutdownArguments, StopArguments, VmNames, VmsArguments},
};
use super::error::exit_codes_help;
use super::{completion, values};

const ABOUT: &str = "Checkpoints of virtual machines on Linux KVM: snapshots by reference";

const HELP_START: &str = "\
The memory of a VM lives in a pool: a file on tmpfs, on a disk or in persistent memory. A snapshot \
does not copy the memory. It refers to the same blocks of the pool. The VM pauses for a moment and \
runs on. Only memory that it writes afterwards needs more space. A restore maps the blocks of the \
snapshot and starts at once. One snapshot can be restored many times, and the copies can run at \
the \
same time.";

const HELP_END: &str = "\
First steps:
  nvvmm doctor                       check that this host can run VMs
  nvvmm run --kernel vmlinuz --initramfs initrd.img --name web --detach
  nvvmm snapshot web base            take a snapshot; the VM runs on
  nvvmm restore base --name copy     start a second VM from that snapshot
  nvvmm ps                           list the VMs
  nvvmm snapshots                    list the snapshots
  nvvmm stop web                     end the first VM

Environment:
  NVVMM_POOL          path of the pool, if --pool is not given. The default is
                      /dev/shm/nvvmm-<uid>/default.pool, which 'run' creates if needed
  NVVMM_RUNTIME_DIR   directory of the control sockets. The default is
                      $XDG_RUNTIME_DIR/nvvmm, else /run/nvvmm for root, else
                      /tmp/nvvmm-<uid>
  NVVMM_LOG           log filter, for example: debug, or nvvmm::cow=trace,info

States of a VM (nvvmm ps):
  booting    the machine is being built; the guest has not run yet
  running    the guest runs
  paused     'nvvmm pause' has stopped the guest
  no-space   the pool, or the medium that it is on, is full, and the guest needs
             memory. The guest waits, and runs on when there is space: after
             'nvvmm rm', when another VM ends, after 'nvvmm pool grow' (a full
             pool), or when there is room on the medium (a full medium)
  spare      the machine stands by, without a name: 'nvvmm restore' takes it
             (nvvmm spare)
  stopping   the VM process is about to end

";

fn help_end() -> String {
    format!("{HELP_END}{}", exit_codes_help())
}

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "nvvmm",
    version,
    about = ABOUT,
    long_about = HELP_START,
    after_long_help = help_end(),
)]
#[command(max_term_width = 110)]
pub struct Arguments {
    /// Log more to stderr: -v main steps, -vv details, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub verbose: u8,
    /// The command.
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
    /// Keep VMs of a snapshot built and standing by: 'nvvmm restore' takes one, and starts at once
    ///
    /// A spare VM is a VM process of its own, confined as any other. Its machine is built, its
    /// memory is the snapshot's; it has no state yet, and nothing of the guest has run. 'nvvmm ps'
    /// lists it as 'spare'. Whoever takes one has another built in the background.
    #[command(after_long_help = SPARE_HELP)]
    Spare(SpareArguments),
    /// Start a VM that has ended again, with the arguments that it was started with
    ///
    /// The VM runs in the background. One of 'nvvmm run' boots its kernel; one of 'nvvmm restore'
    /// is restored from its snapshot again. Relative paths are those of the directory in which
    /// the VM was started first.
    Start(StartAgainArguments),
    /// List the running VMs; with --all also those that have ended
    ///
    /// STATE is booting, running, paused, no-space, waiting, spare or stopping. It is 'starting'
    /// before the VM has a control socket, 'silent' if the VM does not answer, and 'unreachable' if
    /// its socket was removed. OWN is memory that only this VM uses. SHARED is memory that it
    /// shares with snapshots. Notes about VMs go to stderr. With --json each VM that answers is an
    /// object with all its counters.
    #[command(visible_aliases = ["ls", "list"])]
    Ps(PsArguments),
    /// Print the log of a VM, or the latest output of its console; also of one that has ended
    #[command(after_long_help = LOGS_EXAMPLES)]
    Logs(LogsArguments),
    /// Wait until VMs end, and print how they ended
    #[command(after_long_help = WAIT_HELP)]
    Wait(WaitArguments),
    /// Remove what is kept of VMs that have ended: record, log, console output
    ///
    /// Snapshots stay.
    RmVm(RmVmArguments),
    /// Show counters and times of a running VM: faults, copies, system calls, snapshots
    ///
    /// The guest is not involved. Each line of a histogram is a power of two of a microsecond.
    #[command(after_long_help = STATS_EXAMPLES)]
    Stats(StatsArguments),
    /// List the ports of this host that lead into guests
    ///
    /// They are those of -p (--publish) of 'run' and 'restore'.
    Port(PortArguments),
    /// Show the memory of a running VM, as the pool and the guest's kernel count it
    ///
    /// With --target the guest is asked to give so much of it back: its balloon grows, as far as
    /// it can, and what is in the balloon takes no room in the pool. The default target is 0. What
    /// the guest itself frees goes back without that.
    #[command(after_long_help = MEMORY_EXAMPLES)]
    Memory(MemoryArguments),
    /// Pause VMs: their vCPUs and devices stop until 'nvvmm resume'
    #[command(visible_alias = "suspend")]
    Pause(VmsArguments),
    /// Let paused VMs run on
    #[command(visible_alias = "unpause")]
    Resume(VmsArguments),
    /// End VMs; changes since their last snapshots are lost
    ///
    /// Ends the VM process and waits until it is gone. The guest does not shut down: for clean file
    /// systems use 'nvvmm shutdown', or 'nvvmm snapshot --stop'.
    #[command(after_long_help = STOP_EXAMPLES)]
    Stop(StopArguments),
    /// End VMs at once, also those that do not answer
    ///
    /// Kills the VM process, as a power cut would end a machine. The pool takes back its blocks.
    #[command(visible_alias = "destroy", after_long_help = KILL_EXAMPLES)]
    Kill(VmsArguments),
    /// Ask the guests of VMs to shut down, and wait until they have
    ///
    /// Presses the machine's power button (ACPI) and has nvvmm-agent run 'poweroff' in the guest.
    /// One of them is enough. A VM whose guest is not off when the time is up runs on, and the
    /// command fails, unless --force is given.
    #[command(after_long_help = SHUTDOWN_EXAMPLES)]
    Shutdown(ShutdownArguments),
    /// Connect to the serial console of a VM; Ctrl-] leaves it
    ///
    /// After Ctrl-], q ends the VM (you are asked once more), and b goes back. Any other key, or
    /// three seconds without a key, leaves the console. The VM runs on.
    #[command(visible_alias = "attach")]
    Console {
        /// Name of the VM
        #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
        vm: String,
    },
    /// Run a program in the guest of a VM; the guest must run nvvmm-agent
    #[command(after_long_help = EXEC_EXAMPLES)]
    Exec(ExecArguments),
    /// Copy a file into the guest of a VM, or out of it; the guest must run nvvmm-agent
    ///
    /// Write the file in the guest as VM:PATH. If TO is a directory, the file keeps its name.
    /// Permissions are copied too. '-' is standard input or standard output. Write a local path
    /// that has a colon as ./like:this. A file of this host is replaced only with --force; one in
    /// the guest is replaced, as cp(1) does.
    #[command(after_long_help = CP_EXAMPLES)]
    Cp(CpArguments),
    /// Take a snapshot of a running or paused VM
    #[command(after_long_help = SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotArguments),
    /// Take checkpoints of a running VM at an interval, and keep the newest
    #[command(after_long_help = CHECKPOINT_EXAMPLES)]
    Checkpoint(CheckpointArguments),
    /// Take a VM back to a checkpoint or a snapshot of it
    #[command(after_long_help = REWIND_EXAMPLES)]
    Rewind(RewindArguments),
    /// List the snapshots of a pool as a tree
    ///
    /// OWN is the space that the removal of the snapshot frees. SHARED is the space that it shares
    /// with other snapshots. Every snapshot is complete, so you can remove them in any order.
    #[command(visible_alias = "images")]
    Snapshots {
        /// Print the names only, one on each line
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Decode a snapshot: its inode, frame map, vCPUs and devices; or the pool, if no name is given
    ///
    /// Changes nothing and needs no VM. docs/formats/pool.md explains the fields.
    Inspect {
        /// Name of the snapshot; without it the pool itself is decoded
        #[arg(
            value_parser = values::snapshot_name,
            add = ArgValueCandidates::new(completion::snapshots)
        )]
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
    /// Frames are listed by guest frame number, or by page number for process images. A frame that
    /// both snapshots have in the same block is equal and not read. Others are compared byte by
    /// byte. A frame that a snapshot does not have counts as zeros.
    #[command(after_long_help = DIFF_EXAMPLES)]
    Diff {
        /// Name of the first snapshot
        #[arg(
            value_parser = values::snapshot_name,
            add = ArgValueCandidates::new(completion::snapshots)
        )]
        from: String,
        /// Name of the second snapshot
        #[arg(
            value_parser = values::snapshot_name,
            add = ArgValueCandidates::new(completion::snapshots)
        )]
        to: String,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Write a snapshot as a stream, for 'nvvmm receive' in another pool
    ///
    /// The stream describes itself, is compressed, and has checksums. It leaves out memory that was
    /// never written and frames of zeros.
    #[command(after_long_help = SEND_EXAMPLES)]
    Send(SendArguments),
    /// Make a snapshot from a stream of 'nvvmm send'
    ///
    /// The snapshot appears when the whole stream has arrived, and not earlier. A damaged stream is
    /// refused and nothing of it is kept. After an interruption the part that has arrived is kept.
    /// It cannot be restored, but it is not stored again when you send the snapshot again.
    #[command(after_long_help = RECEIVE_EXAMPLES)]
    Receive(ReceiveArguments),
    /// Move a running VM to another host
    #[command(after_long_help = MIGRATE_HELP)]
    Migrate(MigrateArguments),
    /// Take a VM that 'nvvmm migrate' of another host sends
    #[command(hide = true)]
    Arrive(ArriveArguments),
    /// Store a snapshot in an object store: S3 and the like, or a shared directory
    ///
    /// Only what the store lacks is sent. The snapshot is in the store as a whole, or not at all.
    /// After an interruption, push again: what has arrived is found.
    #[command(after_long_help = PUSH_HELP)]
    Push(PushArguments),
    /// Make a snapshot from one that 'nvvmm push' has stored
    ///
    /// What the pool is likely to have is compared with, and not fetched. After an interruption,
    /// pull again: what has arrived is kept. The snapshot is foreign, as a received one is.
    #[command(after_long_help = PULL_EXAMPLES)]
    Pull(PullArguments),
    /// Keep a ring of snapshots of a running VM in an object store
    #[command(after_long_help = REPLICATE_HELP)]
    Replicate(ReplicateArguments),
    /// List, remove, collect and verify what is in an object store
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Trust a snapshot that came from elsewhere
    ///
    /// A received snapshot is foreign, and so are snapshots of VMs that were restored from it. The
    /// files that a foreign snapshot names are not opened, and its processes do not run as root
    /// unless you say so. This command prints what the snapshot names, asks, and ends that.
    Adopt(AdoptArguments),
    /// Write the snapshot of a VM as a core file, for debuggers
    #[command(after_long_help = EXPORT_HELP)]
    Export(ExportArguments),
    /// Remove snapshots
    ///
    /// This works for a snapshot that a VM still runs from. The name is free at once. The space is
    /// free when that VM does not need it any more.
    #[command(visible_alias = "rmi", after_long_help = RM_EXAMPLES)]
    Rm(RmArguments),
    /// Import, export, create, list, copy and remove disks of the pool; tell guests of larger disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Create, grow, show and check pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Check this host: what it lacks for VMs of this user, and the command that mends it
    ///
    /// STATE is ok, warn or missing. With 'missing' no VM can run, and the exit code is 7. Each
    /// warning and each thing that is missing has a line with a remedy.
    Doctor {
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Print the completion script of a shell for nvvmm
    ///
    /// scripts/install.sh installs it where the shell searches for it.
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, one for each command
    Man {
        /// Directory for the man pages; created if it does not exist
        dir: PathBuf,
        /// Replace man pages of nvvmm that are there
        #[arg(short, long)]
        force: bool,
    },
    /// Measure snapshots and restores on this host, compare them with copying, and draw plots
    #[command(after_long_help = BENCH_HELP)]
    Bench(BenchArguments),
}

/// `--json`.
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonFlag {
    /// Print JSON; docs/formats/json.md has its rules and schemas
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
#[path = "args_test.rs"]
mod args_test;

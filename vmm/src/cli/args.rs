//! What can be asked on the command line, and the help that teaches it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nvvmm_snapshot::Durability;

use super::values;
use crate::bench::ExperimentKind;
use crate::spec::DiskSpec;
use crate::stats::ExporterAddress;

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
    /// STATE is booting, running, paused or stopping; starting for one whose control socket is not there yet, silent
    /// for one that does not answer. OWN is the memory that only this VM has, SHARED what it has in common with
    /// snapshots. With --json, a VM that answers is one object with all its counters.
    Ps(JsonFlag),
    /// Show what a running VM counts: faults, copies, calls to the kernel, snapshots, and how long they took
    ///
    /// Nothing is asked of the guest. A histogram has a line for each power of two of a microsecond.
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
    /// Ends the VM process in good order and waits until it is gone. The guest is not asked: to keep its file
    /// systems clean, switch it off from inside, or snapshot it with --stop.
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
    /// One of the two places is VM:PATH. A file that is copied to a directory keeps its name; permissions are carried
    /// over. A local path with a colon is written ./like:this.
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
    /// For tests: holds KVM's dirty log since the last snapshot against the COW engine. The VM must have been started
    /// with NVVMM_TEST_DIRTY_LOG in its environment.
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
    /// OWN is the space that removing the snapshot would free; SHARED is what it has in common with other
    /// snapshots. Every snapshot is complete: any of them can be removed in any order.
    Snapshots {
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Remove snapshots
    ///
    /// Also one that a VM still runs from: its name goes at once, its space when that VM needs it no more.
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
    /// Measure checkpoints and restarts on this host, beside copying, and draw them
    #[command(after_long_help = BENCH_HELP)]
    Bench(BenchArguments),
}

const BENCH_HELP: &str = "\
It runs VMs with nvvmm's bare-metal test guest in pools of its own, which go when it ends, and compares all memory of \
restored guests. Ctrl-C ends it between two steps. The host should have nothing else to do.

Memory in huge pages is measured where --huge-dir names a directory on it: a mounted hugetlbfs with free pages, or a \
tmpfs that was mounted with huge=always. scripts/bench.sh in the source tree makes both, and gives them back.

Examples:
  nvvmm bench                                   all experiments, as tables
  nvvmm bench paper --sizes 16M,64M,256M --repeat 5
  nvvmm bench rate --cpus 1
      what a ring of checkpoints costs a guest with one vCPU, in several rhythms
  nvvmm bench --huge-dir /mnt/huge --out results
      tables, plots (SVG) and all measurements (JSON) as files, too";

/// `nvvmm bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure; everything when not given
    #[arg(value_enum, value_name = "EXPERIMENT")]
    pub experiments: Vec<ExperimentKind>,
    /// Memory that guests touch (default: 16M,64M,256M,512M,1G,4G, as far as it fits). All but 'paper' use the largest,
    /// 'cow' and 'techniques' 512M of it, 'sparse' 1G, 'clusters' 128M, 'rate' 64M and 'mappings' 16M at
    /// most
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = values::size)]
    pub sizes: Vec<u64>,
    /// How often each thing is done, 1 to 99
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = clap::value_parser!(u8).range(1..100))]
    pub repeat: u8,
    /// vCPUs of guests, 1 to 8
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = clap::value_parser!(u8).range(1..9))]
    pub cpus: u8,
    /// VMs that are started from one snapshot in the experiment 'space', 2 to 200
    #[arg(long, value_name = "COUNT", default_value = "50", value_parser = clap::value_parser!(u8).range(2..=200))]
    pub clones: u8,
    /// A directory on memory in ordinary pages
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub dir: PathBuf,
    /// A directory on memory in huge pages; repeatable
    #[arg(long = "huge-dir", value_name = "DIR")]
    pub huge_dirs: Vec<PathBuf>,
    /// The guest's program (default: nvvmm-bare-metal beside this program, or where cargo has built it)
    #[arg(
        long,
        value_name = "FILE",
        env = "NVVMM_BAREMETAL_GUEST",
        hide_env_values = true
    )]
    pub guest: Option<PathBuf>,
    /// Write performance.md, performance.json and the plots, in performance/, to this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measure nothing: show the measurements in a performance.json of before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["experiments", "sizes", "huge_dirs"])]
    pub from: Option<PathBuf>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

const RUN_EXAMPLES: &str = "\
Examples:
  nvvmm run --kernel /boot/vmlinuz --initramfs initrd.img
      a VM in the foreground; the terminal is its console, Ctrl-] ends it
  nvvmm run --kernel vmlinuz --disk root.img --disk tools.img,ro \\
      --cmdline 'root=/dev/vda rw' --memory 2G --cpus 4 --name db --detach
      a VM in the background; 'nvvmm console db' shows its console";

/// `nvvmm run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Kernel: a bzImage, an ELF vmlinux, or an nvvmm test guest
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Initial RAM disk, handed to a Linux kernel
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line; what nvvmm needs is added
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub cmdline: String,
    /// Guest memory in bytes, or with K, M, G or T (powers of 1024); a multiple of 2M
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = values::size)]
    pub memory: u64,
    /// Number of vCPUs, 1 to 64
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = values::vcpus)]
    pub cpus: u8,
    /// Raw disk image, read-only with ',ro'; several make vda, vdb, ...
    ///
    /// The content of a disk is not part of a snapshot: give every restored VM a copy of its own.
    #[arg(long = "disk", value_name = "FILE[,ro]", value_parser = values::disk)]
    pub disks: Vec<DiskSpec>,
    /// The VM process.
    #[command(flatten)]
    pub start: StartArguments,
}

const RESTORE_EXAMPLES: &str = "\
Examples:
  nvvmm restore base --name copy --detach
      one more VM that continues where 'base' was taken
  nvvmm restore db-full --disk copy-of-root.img --disk tools.img,ro --detach
      with a disk of its own in place of the first
  nvvmm restore suspended --once
      continue a VM and use its snapshot up: no write is ever copied
  nvvmm restore job-1 --into web
      continue a process in a guest that has its files";

/// `nvvmm restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// Name of the snapshot
    #[arg(value_parser = values::snapshot_name)]
    pub snapshot: String,
    /// Consume the snapshot: its memory becomes the VM's own, the name is gone
    #[arg(long)]
    pub once: bool,
    /// Fill the page tables before the guest runs: a later start, a smoother run
    #[arg(long)]
    pub prefault: bool,
    /// What the guest's time of day does: goes on from the snapshot's (keep), or is set to the host's (step) by the
    /// guest's nvvmm-agent
    #[arg(long, value_enum, default_value = "keep")]
    pub clock: ClockChoice,
    /// Restart the process that the snapshot is of in the guest of this VM, which must use the same pool and run
    /// nvvmm-agent
    ///
    /// It has the number that it had, which must be free there, and its memory is the snapshot's until it writes to it.
    #[arg(long, value_name = "VM", value_parser = values::vm_name, conflicts_with_all = ["once", "prefault", "clock", "disks", "name", "detach", "console", "paused"])]
    pub into: Option<String>,
    /// Give the process this terminal, or whatever stdin, stdout and stderr are, and wait for its end; without it they are
    /// /dev/null where they led out of it
    #[arg(long, requires = "into", conflicts_with = "json")]
    pub attach: bool,
    /// Show the guest the snapshot in a window and map the process's memory from there, so that the start takes no longer for a
    /// larger process and pages that it does not write stay shared
    ///
    /// Such memory is not quite like other memory: what the process gives up with MADV_DONTNEED comes back as it was in the
    /// snapshot, not as zeroes; MADV_FREE is refused; memory that grows by mremap shows other pages of the snapshot; and it does
    /// not count as resident. A program whose allocator relies on zeroes there fails. The process can be captured again; the
    /// whole VM cannot be snapshotted until it has ended. The guest needs the drivers virtio_pmem, nd_pmem and erofs (with DAX).
    #[arg(long, requires = "into")]
    pub window: bool,
    /// Disks in place of the snapshot's, all of them, in the guest's order
    #[arg(long = "disk", value_name = "FILE[,ro]", value_parser = values::disk)]
    pub disks: Vec<DiskSpec>,
    /// The VM process.
    #[command(flatten)]
    pub start: StartArguments,
}

/// What `run` and `restore` have in common.
#[derive(Debug, Args)]
pub struct StartArguments {
    /// Name of the VM, up to 64 of A-Z a-z 0-9 . _ -; made up when not given
    #[arg(long, value_parser = values::vm_name)]
    pub name: Option<String>,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// Run the VM in the background; returns when its guest runs
    #[arg(long)]
    pub detach: bool,
    /// Where the console goes; it is also on a socket for 'nvvmm console'
    ///
    /// stdio (in the foreground) or none (with --detach). On a terminal, stdio is switched to raw mode: every key
    /// goes to the guest, except Ctrl-], which ends the VM.
    #[arg(long, value_enum)]
    pub console: Option<ConsoleChoice>,
    /// Do not let the guest run until 'nvvmm resume'
    #[arg(long)]
    pub paused: bool,
    /// Print the VM's status as JSON once it is up; in the foreground only with --console none
    #[arg(long)]
    pub json: bool,
}

/// `--console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleChoice {
    /// The terminal, or whatever stdin and stdout are
    Stdio,
    /// Only the socket
    None,
}

/// `--clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockChoice {
    /// It goes on from the snapshot's instant
    Keep,
    /// It is set to the host's
    Step,
}

/// `nvvmm stats`.
#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name)]
    pub vm: String,
    /// Serve the counts as metrics, in Prometheus's text format at the path /metrics, until a signal ends it
    ///
    /// unix:PATH, for its owner alone, or 127.0.0.1:PORT or [::1]:PORT, for all users of this host; other addresses are
    /// refused. The VM is asked at each scrape; while no VM of that name answers, nvvmm_up is 0.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "json")]
    pub prometheus: Option<ExporterAddress>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

const STATS_EXAMPLES: &str = "\
Examples:
  nvvmm stats web
  nvvmm stats web --prometheus 127.0.0.1:9180
  nvvmm stats web --prometheus unix:/run/web.metrics";

const EXEC_EXAMPLES: &str = "\
Exit code: the program's; 128 and its number for a program that a signal ended; 127 when there is no such program, \
126 when it cannot be run; 255 when nvvmm or the agent failed.

Examples:
  nvvmm exec web -- systemctl status nginx
  nvvmm exec --tty web -- bash
  tar c site | nvvmm exec web -- tar x -C /srv";

const CP_EXAMPLES: &str = "\
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

const SNAPSHOT_EXAMPLES: &str = "\
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
    /// Take the process with this number in the guest, instead of the whole VM; the guest must run nvvmm-agent
    ///
    /// Its memory becomes part of the pool without being copied. What it has open is noted, not kept: files must be there
    /// when it is restarted. What cannot be captured (a network connection, for one) is refused by name.
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
    /// Refuse unless the snapshot then survives: the end of any process, a crash or restart of the host, or a power
    /// cut. Without this it survives what the pool can ('nvvmm pool status' says what that is)
    #[arg(long, value_name = "process|host|power")]
    pub durability: Option<Durability>,
    /// Return when the new blocks have digests for 'nvvmm pool scrub'
    ///
    /// Without it they are made in the background after the snapshot, at a fifth of one CPU at most.
    #[arg(long)]
    pub verify: bool,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

const CHECKPOINT_EXAMPLES: &str = "\
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
    /// The VM process takes them by itself, until it ends, until --stop, or until it cannot (the pool is full: the guest goes
    /// on, and 'nvvmm ps' says so). None is taken while the VM is paused, or while a process of its guest is captured or
    /// restarted.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::period)]
    pub every: Duration,
    /// How many are kept; the commit that adds one removes the oldest
    ///
    /// They are snapshots named VM@1, VM@2, and so on. Those that the pool has of a VM of this name count too.
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub keep: u32,
    /// Refuse unless each checkpoint then survives: the end of any process, a crash or restart of the host, or a power cut
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

const REWIND_EXAMPLES: &str = "\
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
    /// It stays the same VM, with its process, console and sockets. Streams between host and guest break, as with any restore.
    /// Refused for a VM that writes to disks: their content does not go back.
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

/// `nvvmm pool ...`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool
    #[command(after_long_help = POOL_CREATE_EXAMPLES)]
    Create {
        /// The file to make, on tmpfs (/dev/shm), hugetlbfs, a file system on persistent memory or a disk; or a DAX
        /// device (/dev/daxX.Y), which is zeroed
        path: PathBuf,
        /// Size in bytes, or with K, M, G or T (powers of 1024); a multiple of 2M, 8M to 16T; a DAX device is taken as
        /// a whole without it
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        size: Option<u64>,
        /// Allow a pool larger than what the medium has left; a VM can then fail when the medium is full
        #[arg(long)]
        overcommit: bool,
    },
    /// Make a pool larger, also while VMs run on it
    ///
    /// VMs use the new space at once; those that wait for space go on. A pool cannot be made smaller.
    #[command(after_long_help = POOL_GROW_EXAMPLES)]
    Grow {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// New size of the whole pool, a multiple of 2M; '+1G' for that much more
        #[arg(long, value_name = "SIZE", value_parser = values::new_size)]
        size: values::NewSize,
        /// Allow a pool larger than what the medium has left; a VM can then fail when the medium is full
        #[arg(long)]
        overcommit: bool,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Show what a pool holds and which VMs use it
    Status {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Delete a pool that no VM uses, with all its snapshots
    ///
    /// Its file is removed. A DAX device is no pool afterwards, but its bytes stay until the next pool is made on it.
    Delete {
        /// The pool
        path: PathBuf,
    },
    /// Read everything that snapshots hold; exit code 6 and the damaged frames when something is wrong
    #[command(after_long_help = POOL_SCRUB_HELP)]
    Scrub {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Verify a pool's own structures; exit code 6 and a list when something is wrong
    Check {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
}

const POOL_SCRUB_HELP: &str = "\
Each block of a snapshot has a digest, which is made soon after the snapshot (with 'snapshot --verify' at once).
A scrub reads all blocks and compares; it makes the digests that are missing. It disturbs no VM, and what it
has done counts when it is interrupted.";

const POOL_CREATE_EXAMPLES: &str = "\
Example:
  nvvmm pool create /dev/shm/big.pool --size 8G
  nvvmm pool create /dev/dax0.0
  export NVVMM_POOL=/dev/shm/big.pool";

const POOL_GROW_EXAMPLES: &str = "\
Examples:
  nvvmm pool grow /dev/shm/big.pool --size 16G
  nvvmm pool grow --size +1G";

/// `--pool`.
#[derive(Clone, Debug, Default, Args)]
pub struct PoolOption {
    /// The pool; without it /dev/shm/nvvmm-<user>.pool
    #[arg(long, value_name = "FILE", env = "NVVMM_POOL", hide_env_values = true)]
    pub pool: Option<PathBuf>,
}

/// The pool of `nvvmm pool ...`: by its path alone, or with `--pool` as for all other commands.
#[derive(Clone, Debug, Default, Args)]
pub struct PoolPlace {
    /// The pool; goes before --pool
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// `--pool`.
    #[command(flatten)]
    option: PoolOption,
}

impl PoolPlace {
    /// The one that is meant.
    pub fn option(self) -> PoolOption {
        PoolOption {
            pool: self.path.or(self.option.pool),
        }
    }
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

//! Options of the commands that start a VM.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use nvvmm::OnReboot;
use nvvmm::control::{AgentOrders, TimeOfDay};
use nvvmm::spec::DiskSpec;

use super::PoolOption;
use super::net::NetArguments;
use super::remote::PrefetchChoice;
use crate::{completion, values, whole_number};

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  nvvmm run --kernel /boot/vmlinuz --initramfs initrd.img
      Runs the VM in the foreground. The terminal is its console; Ctrl-] leaves it, and the VM
      runs on.
  nvvmm run --kernel vmlinuz --disk root.img --disk tools.img,ro \\
      --cmdline 'root=/dev/vda rw' --memory 2G --cpus 4 --name db --detach
      Runs the VM in the background; 'nvvmm console db' connects to its console.
  nvvmm run --kernel vmlinuz --disk root.img,rate=100M,iops=2000 --cmdline root=/dev/vda
      The guest reads and writes up to 100 MiB and does up to 2000 requests in a second.
  nvvmm run --kernel vmlinuz --disk root.img --cmdline root=/dev/vda --net -p 8080:80 --detach
      Gives the guest a network. Port 8080 of this host is its port 80.";

/// `nvvmm run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Kernel: a bzImage, an ELF vmlinux, or an nvvmm test guest
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Initial RAM disk of a Linux kernel
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line; nvvmm adds the parameters that it needs
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub cmdline: String,
    /// Guest memory: bytes, or a number with K, M, G or T (powers of 1024); a multiple of 2M
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = values::size)]
    pub memory: u64,
    /// Number of vCPUs, 1 to 64
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = values::vcpus)]
    pub cpus: u8,
    /// Disk of the pool, by its name, or a raw disk image, by its path; ',ro' makes it read-only.
    /// Repeat it for more disks: vda, vdb, ...
    ///
    /// Snapshots contain the disks of the pool ('nvvmm disk'), and restored VMs get copies of them
    /// at once. A snapshot does not contain an image file: give every restored VM its own copy. A
    /// name without '/' is that of a disk of the pool, if there is one.
    ///
    /// ',ro,dax' shows a disk of the pool as persistent memory (/dev/pmem0), to be mounted with
    /// DAX: its files take no RAM of the guest, and are once on the host however many VMs use them.
    ///
    /// More options, separated by commas: 'rate=100M' limits the bytes per second (powers of 1024),
    /// and 'iops=2000' the requests per second; what a second allows can be saved up. 'raw' takes
    /// an image that looks like qcow2 as a raw one. A path with a comma needs ',rw' or ',ro'
    /// directly behind it.
    #[arg(long = "disk", value_name = "DISK[,ro][,OPTION...]", value_parser = disk_parser())]
    pub disks: Vec<DiskSpec>,
    /// The network card.
    #[command(flatten)]
    pub network: NetArguments,
    /// The VM process.
    #[command(flatten)]
    pub start: StartArguments,
}

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  nvvmm restore base --name copy --detach
      Starts one more VM, which continues from the moment of 'base'.
  nvvmm restore db-full --disk copy-of-root.img --disk tools.img,ro --detach
      Gives the VM its own copy of the first disk.
  nvvmm restore received --disk copy-of-root.img --kernel vmlinuz --cmdline 'root=/dev/vda rw'
      Starts a VM from a snapshot of another host: this host's files are given.
  nvvmm restore suspended --once
      Continues a VM and consumes its snapshot. No write is copied afterwards.
  nvvmm restore job-1 --into web
      Restarts a process in a guest that has its files.
  nvvmm restore base --name web --count 20 --detach
      Starts 20 VMs: web-1 to web-20. If one cannot be started, none stays.";

/// `nvvmm restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// Name of the snapshot, or the URL of one in an object store, such as s3://bucket/team/base
    ///
    /// A VM of a URL runs at once, while its memory arrives. What the guest touches is fetched
    /// first. The snapshot is in the pool when all of it has arrived, as after 'nvvmm pull'.
    #[arg(
        value_name = "SNAPSHOT",
        value_parser = values::snapshot_or_url,
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    pub snapshot: String,
    /// Of a URL: name that the snapshot gets in the pool. The default is its name in the store
    #[arg(long, value_name = "NAME", value_parser = values::new_snapshot_name)]
    pub pulled_as: Option<String>,
    /// Of a URL: the key in this file, with which the store was made
    #[arg(long, value_name = "KEY-FILE")]
    pub key: Option<PathBuf>,
    /// Of a URL: memory that is fetched though the guest has not touched it
    #[arg(long, value_enum)]
    pub prefetch: Option<PrefetchChoice>,
    /// Of a URL: keep the order of this guest's first touches in the store, in place of an earlier
    /// one
    #[arg(long)]
    pub record: bool,
    /// The snapshot arrives from a store.
    #[arg(skip)]
    pub is_arriving: bool,
    /// Start so many VMs, 1 to 1000. With --name web their names are web-1, web-2, ...
    ///
    /// If one of them cannot be started, those that were started are ended again, and the command
    /// fails.
    #[arg(
        short,
        long,
        value_name = "COUNT",
        value_parser = whole_number::between::<u32>(1..=1000),
        requires = "detach",
        conflicts_with_all = ["once", "into"],
    )]
    pub count: Option<u32>,
    /// Consume the snapshot: its memory becomes the VM's own, and the snapshot is removed
    #[arg(long)]
    pub once: bool,
    /// Fill the page tables before the guest runs: it starts later, and then has fewer page faults
    #[arg(long)]
    pub prefault: bool,
    /// Time of day in the guest: step, the default, has the nvvmm-agent in the guest set it to the
    /// time of the host; keep goes on from the time of the snapshot
    ///
    /// Nobody waits for the agent by default. With --clock step the command waits up to 5 seconds
    /// for it, and prints a warning if the clock is not set by then.
    #[arg(long, value_enum)]
    pub clock: Option<ClockChoice>,
    /// Leave the guest's TCP connections to other machines as they are. By default the nvvmm-agent
    /// in the guest ends them, as their other ends go on without this VM
    ///
    /// The command waits up to 5 seconds for the agent, and prints a warning if it has not answered
    /// or is too old to keep them.
    #[arg(long)]
    pub keep_connections: bool,
    /// Restart the process of a process snapshot in the guest of this VM. The VM must use the same
    /// pool, and its guest must run nvvmm-agent
    ///
    /// The process gets its old process id, which must be free in that guest. It shares its memory
    /// with the snapshot until it writes to it.
    #[arg(
        long,
        value_name = "VM",
        value_parser = values::vm_name,
        add = ArgValueCandidates::new(completion::vms),
        conflicts_with_all = [
            "once", "prefault", "clock", "keep_connections", "disks", "net", "publish",
            "stale_disks", "ephemeral",
            "kernel", "name",
            "detach", "console", "paused", "on_reboot", "uid", "gid", "no_sandbox",
        ],
    )]
    pub into: Option<String>,
    /// Connect the process to this command's stdin, stdout and stderr, and wait until it ends.
    /// Without this option its standard streams become /dev/null, if they led out of the process
    #[arg(long, requires = "into", conflicts_with = "json")]
    pub attach: bool,
    /// Show the snapshot to the guest in a window (a pmem device), and map the memory of the
    /// process from there. A large process then starts as fast as a small one, and pages that it
    /// does not write stay shared
    ///
    /// This memory differs from ordinary memory. After MADV_DONTNEED it has its content from the
    /// snapshot again, not zeros: a program whose allocator relies on zeros fails. MADV_FREE is
    /// refused. Memory that grows by mremap shows other pages of the snapshot. The memory does not
    /// count as resident. The process can be captured again. The whole VM cannot be snapshotted
    /// until the process has ended. The guest needs the drivers virtio_pmem, nd_pmem and erofs
    /// (with DAX).
    #[arg(long, requires = "into")]
    pub window: bool,
    /// Let the process of a snapshot that came from elsewhere be root, have capabilities, or have
    /// files that the agent opens for it as root, if the snapshot says so. By default that is
    /// refused
    #[arg(long, requires = "into")]
    pub allow_root: bool,
    /// Raw disk image in place of a disk of the snapshot. Give all disks, in the guest's order.
    /// A snapshot that came from elsewhere is not restored without them
    ///
    /// Limits are those that are given here: 'rate=100M', 'iops=2000'. Without --disk they are
    /// those of the snapshot's machine.
    #[arg(long = "disk", value_name = "FILE[,ro][,OPTION...]", value_parser = disk_parser())]
    pub disks: Vec<DiskSpec>,
    /// The network card.
    #[command(flatten)]
    pub network: NetArguments,
    /// Use the disks as they are now, even if they were written after the snapshot
    ///
    /// A snapshot does not contain image files. The guest's memory does not fit a disk that was
    /// written since, and file systems on it may break. By default such a restore is refused.
    #[arg(long)]
    pub stale_disks: bool,
    /// Remove the VM's copies of the snapshot's disks when it ends
    ///
    /// A restored VM gets a copy of each disk of the pool, with a name like 'copy.base'. By default
    /// a copy that was written stays when the VM ends.
    #[arg(long)]
    pub ephemeral: bool,
    /// Kernel that the guest boots when it reboots, in place of the snapshot's
    ///
    /// A snapshot that came from elsewhere names files of another host. They are not opened:
    /// without this option the VM ends when its guest reboots.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line for --kernel; nvvmm adds the parameters that it needs
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        requires = "kernel"
    )]
    pub cmdline: String,
    /// The VM process.
    #[command(flatten)]
    pub start: StartArguments,
}

/// Options that `run` and `restore` share.
#[derive(Debug, Args)]
pub struct StartArguments {
    /// Name of the VM: up to 64 of A-Z a-z 0-9 . _ - (default: vm-1, vm-2, ...)
    #[arg(short, long, value_parser = values::vm_name)]
    pub name: Option<String>,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// Run the VM in the background. The command returns when the guest runs
    #[arg(short, long)]
    pub detach: bool,
    /// With --detach: print only the name of the VM
    #[arg(short, long, requires = "detach", conflicts_with = "json")]
    pub quiet: bool,
    /// Accepted as in 'docker run -it': input goes to the guest's console in any case
    #[arg(short, long, conflicts_with = "console")]
    pub interactive: bool,
    /// Require a terminal in the foreground; it is the guest's console
    #[arg(short, long, conflicts_with = "console")]
    pub tty: bool,
    /// Streams of the console. In any case 'nvvmm console' can connect to it
    ///
    /// The default is stdio in the foreground, and none with --detach. A terminal is switched to
    /// raw mode: every key goes to the guest, except Ctrl-], which leaves the console. The VM then
    /// runs on in the background. After Ctrl-], q ends the VM (you are asked once more).
    #[arg(long, value_enum)]
    pub console: Option<ConsoleChoice>,
    /// Build the VM, but do not let the guest run until 'nvvmm resume'
    #[arg(long)]
    pub paused: bool,
    /// After a reboot of the guest, or a triple fault: restart the guest, or end the VM
    #[arg(long, value_enum, default_value = "restart")]
    pub on_reboot: RebootChoice,
    /// For root: run the VM process as this user, a name or a number. Files that the VM uses must
    /// be the user's, or open to the user
    #[arg(long, value_name = "USER")]
    pub uid: Option<String>,
    /// Group of the VM process, a name or a number (default: the group of the user)
    #[arg(long, value_name = "GROUP", requires = "uid")]
    pub gid: Option<String>,
    /// Do not confine the VM process. For debugging: a guest that breaks out of its machine then
    /// has all rights of this user
    #[arg(long)]
    pub no_sandbox: bool,
    /// Print the status of the VM as JSON when it runs; in the foreground only with --console none
    #[arg(long)]
    pub json: bool,
}

fn disk_parser() -> impl TypedValueParser<Value = DiskSpec> {
    OsStringValueParser::new().try_map(values::disk_argument)
}

/// `--console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleChoice {
    /// This command's stdin and stdout
    Stdio,
    /// No stream: only 'nvvmm console'
    None,
}

/// `--on-reboot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RebootChoice {
    /// The guest boots again; a restored one boots, too
    Restart,
    /// The VM ends
    Exit,
}

impl From<RebootChoice> for OnReboot {
    fn from(choice: RebootChoice) -> Self {
        match choice {
            RebootChoice::Restart => Self::Restart,
            RebootChoice::Exit => Self::Exit,
        }
    }
}

impl RestoreArguments {
    /// Orders for the guest's agent.
    pub fn agent_orders(&self) -> AgentOrders {
        AgentOrders {
            time_of_day: match self.clock {
                None => TimeOfDay::Step,
                Some(ClockChoice::Step) => TimeOfDay::StepAwaited,
                Some(ClockChoice::Keep) => TimeOfDay::Keep,
            },
            keep_connections: self.keep_connections,
        }
    }
}

/// `--clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockChoice {
    /// Go on from the time of the snapshot
    Keep,
    /// Set it to the time of the host
    Step,
}

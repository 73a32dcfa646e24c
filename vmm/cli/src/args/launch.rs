//! What the commands that start a VM can be asked.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nvvmm::spec::DiskSpec;

use super::PoolOption;
use crate::values;

pub(super) const RUN_EXAMPLES: &str = "\
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

pub(super) const RESTORE_EXAMPLES: &str = "\
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
    /// What the guest's time of day does: goes on from the snapshot's (keep), or is set to the
    /// host's (step) by the guest's nvvmm-agent
    #[arg(long, value_enum, default_value = "keep")]
    pub clock: ClockChoice,
    /// Restart the process that the snapshot is of in the guest of this VM, which must use the
    /// same pool and run nvvmm-agent
    ///
    /// It has the number that it had, which must be free there, and its memory is the snapshot's
    /// until it writes to it.
    #[arg(long, value_name = "VM", value_parser = values::vm_name, conflicts_with_all = ["once", "prefault", "clock", "disks", "name", "detach", "console", "paused"])]
    pub into: Option<String>,
    /// Give the process this terminal, or whatever stdin, stdout and stderr are, and wait for its
    /// end; without it they are /dev/null where they led out of it
    #[arg(long, requires = "into", conflicts_with = "json")]
    pub attach: bool,
    /// Show the guest the snapshot in a window and map the process's memory from there, so that
    /// the start takes no longer for a larger process and pages that it does not write stay
    /// shared
    ///
    /// Such memory is not quite like other memory: what the process gives up with MADV_DONTNEED
    /// comes back as it was in the snapshot, not as zeroes; MADV_FREE is refused; memory that
    /// grows by mremap shows other pages of the snapshot; and it does not count as resident. A
    /// program whose allocator relies on zeroes there fails. The process can be captured again;
    /// the whole VM cannot be snapshotted until it has ended. The guest needs the drivers
    /// virtio_pmem, nd_pmem and erofs (with DAX).
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
    /// stdio (in the foreground) or none (with --detach). On a terminal, stdio is switched to raw
    /// mode: every key goes to the guest, except Ctrl-], which ends the VM.
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

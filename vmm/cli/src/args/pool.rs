//! Options of `nvvmm pool`, and the choice of the pool.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::JsonFlag;
use crate::values;

/// `nvvmm pool ...`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Create a pool
    #[command(after_long_help = POOL_CREATE_EXAMPLES)]
    Create {
        /// Path of the new file, on tmpfs (/dev/shm), hugetlbfs, a disk or persistent memory; or a
        /// DAX device (/dev/daxX.Y), which is filled with zeros
        path: PathBuf,
        /// Size: bytes, or a number with K, M, G or T (powers of 1024); a multiple of 2M, from 8M
        /// to 16T. For a DAX device the default is the whole device
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        size: Option<u64>,
        /// Allow a pool larger than what the medium has left; a VM can then fail when the medium
        /// is full
        #[arg(long)]
        overcommit: bool,
    },
    /// Make a pool larger, also while VMs use it
    ///
    /// VMs can use the new space at once. VMs that wait for space run on. A pool cannot be made
    /// smaller.
    #[command(after_long_help = POOL_GROW_EXAMPLES)]
    Grow {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// New size of the whole pool, a multiple of 2M; '+1G' adds 1 GiB
        #[arg(long, value_name = "SIZE", value_parser = values::new_size)]
        size: values::NewSize,
        /// Allow a pool larger than what the medium has left; a VM can then fail when the medium
        /// is full
        #[arg(long)]
        overcommit: bool,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Make a pool one of the newest format version; no VM may use it
    ///
    /// Any command that opens a pool alone does so, too. What the pool has stays as it is. Programs
    /// of older versions cannot open it any more.
    Upgrade {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
    },
    /// Show the use of a pool and the VMs that use it
    Status {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Draw a pool: the use of its chunks, and the snapshots that share them
    ///
    /// In the terminal each character is one or several chunks of 2 MiB. It shows the main use of
    /// what is used of them, in lower case if less than half is used. In the SVG file (--svg) each
    /// chunk is a square. It is filled as far as the chunk is used, and it is darker if more
    /// snapshots share it.
    Map {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// Also write the picture to this SVG file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// Replace the SVG file if it exists
        #[arg(short, long, requires = "svg")]
        force: bool,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Mount the snapshots as read-only files, one directory each, until Ctrl-C or umount
    #[command(after_long_help = POOL_MOUNT_HELP)]
    Mount {
        /// Directory to mount on
        dir: PathBuf,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
    },
    /// Delete a pool and all its snapshots; no VM may use it
    ///
    /// The file of the pool is removed. On a DAX device only the pool's header is erased: the data
    /// stays there until the next pool is created on the device.
    Delete {
        /// Path of the pool
        path: PathBuf,
    },
    /// Read all data of the snapshots and verify it. Lists damaged frames; then the exit code is 6
    #[command(after_long_help = POOL_SCRUB_HELP)]
    Scrub {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Verify the structures of a pool. Lists the errors; then the exit code is 6
    Check {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
}

const POOL_MOUNT_HELP: &str = "\
Each snapshot has a directory. Only the user who mounts can read it. It contains:
  memory      guest RAM by guest physical address, or the pages of a process image.
              There are holes for memory that was never written, and where the
              guest has no RAM (from 3 to 4 GiB)
  state.json  vCPUs and devices, as 'nvvmm inspect' shows them
  spec.json   the specification of the VM (not for a process image)

VMs and other commands can use the pool meanwhile. New snapshots appear when they are taken. \
Removed snapshots disappear: their open files cannot be read any more, except for data that the \
kernel has cached.

Example:
  nvvmm pool mount /mnt &
  hexdump -C -s 1M -n 64 /mnt/before-upgrade/memory
  cmp -l /mnt/before-upgrade/memory /mnt/after-upgrade/memory | wc -l
  umount /mnt";

const POOL_SCRUB_HELP: &str = "\
Each block of a snapshot has a digest. It is computed soon after the snapshot, or at once with \
'snapshot --verify'. A scrub reads all blocks and compares them with their digests. It computes \
digests that are missing. VMs can run meanwhile. After an interruption the digests that it has \
computed stay.";

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
    /// Path of the pool (default: that of the variable NVVMM_POOL, else
    /// /dev/shm/nvvmm-<uid>/default.pool)
    #[arg(long, value_name = "FILE")]
    pool: Option<PathBuf>,
}

impl PoolOption {
    /// The pool at `path`, or where the environment says.
    pub fn of(path: Option<PathBuf>) -> Self {
        Self { pool: path }
    }

    /// Path of the pool that the option names.
    pub fn given(&self) -> Option<&Path> {
        self.pool.as_deref()
    }

    /// Path of the pool that the user named: by the option, else by the variable `NVVMM_POOL`.
    ///
    /// clap does not read the variable: its usage texts would show the option as required then.
    pub fn path(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(POOL_VARIABLE).filter(|path| !path.is_empty());
        self.pool.clone().or_else(|| variable().map(PathBuf::from))
    }
}

/// Variable with the path of the pool.
const POOL_VARIABLE: &str = "NVVMM_POOL";

/// The pool of `nvvmm pool ...`: by its path alone, or with `--pool` as for all other commands.
#[derive(Clone, Debug, Default, Args)]
pub struct PoolPlace {
    /// Path of the pool; overrides --pool
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// `--pool`.
    #[command(flatten)]
    option: PoolOption,
}

impl PoolPlace {
    /// The pool that was given, by path or with `--pool`.
    pub fn option(self) -> PoolOption {
        PoolOption::of(self.path.or(self.option.pool))
    }
}

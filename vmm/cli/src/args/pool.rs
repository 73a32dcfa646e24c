//! Which pool, and what `nvvmm pool` can be asked.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::JsonFlag;
use crate::values;

/// `nvvmm pool ...`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool
    #[command(after_long_help = POOL_CREATE_EXAMPLES)]
    Create {
        /// The file to make, on tmpfs (/dev/shm), hugetlbfs, a file system on persistent memory or
        /// a disk; or a DAX device (/dev/daxX.Y), which is zeroed
        path: PathBuf,
        /// Size in bytes, or with K, M, G or T (powers of 1024); a multiple of 2M, 8M to 16T; a
        /// DAX device is taken as a whole without it
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        size: Option<u64>,
        /// Allow a pool larger than what the medium has left; a VM can then fail when the medium
        /// is full
        #[arg(long)]
        overcommit: bool,
    },
    /// Make a pool larger, also while VMs run on it
    ///
    /// VMs use the new space at once; those that wait for space go on. A pool cannot be made
    /// smaller.
    #[command(after_long_help = POOL_GROW_EXAMPLES)]
    Grow {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// New size of the whole pool, a multiple of 2M; '+1G' for that much more
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
    /// Show what a pool holds and which VMs use it
    Status {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Draw a pool: what its chunks are used for, and what snapshots have of it
    ///
    /// In the terminal a sign stands for one or several chunks of 2 MiB. As SVG (--svg) a chunk is
    /// a square, filled by how much of it is in use; memory that more snapshots share is
    /// darker.
    Map {
        /// The pool.
        #[command(flatten)]
        pool: PoolPlace,
        /// Write the picture to this file, too
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Show snapshots as files, for ordinary tools: a directory for each, until Ctrl-C or umount
    #[command(after_long_help = POOL_MOUNT_HELP)]
    Mount {
        /// Directory to mount on
        dir: PathBuf,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
    },
    /// Delete a pool that no VM uses, with all its snapshots
    ///
    /// Its file is removed. A DAX device is no pool afterwards, but its bytes stay until the next
    /// pool is made on it.
    Delete {
        /// The pool
        path: PathBuf,
    },
    /// Read everything that snapshots hold; exit code 6 and the damaged frames when something is
    /// wrong
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

const POOL_MOUNT_HELP: &str = "\
In each snapshot's directory, read-only and for the user who mounts alone:
  memory      the guest's RAM by guest physical address, with holes where nothing was ever written and where the
              guest has no RAM (from 3 to 4 GiB); of a process image its pages
  state.json  vCPUs and devices, as 'nvvmm inspect' shows them
  spec.json   how the VM was made (not of a process image)

VMs and other commands use the pool meanwhile. Snapshots appear as they are taken. One that is removed is gone: a file of it that is
open cannot be read any more, but for what the kernel has cached.

Example:
  nvvmm pool mount /mnt &
  hexdump -C -s 1M -n 64 /mnt/before-upgrade/memory
  cmp -l /mnt/before-upgrade/memory /mnt/after-upgrade/memory | wc -l
  umount /mnt";

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

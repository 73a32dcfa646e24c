//! Options of `nvvmm disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::{JsonFlag, PoolOption};
use crate::disk::image::ImageFormat;
use crate::disk::place::{self, DiskPlace};
use crate::names::{Choice, NamePattern};
use crate::values::NewSize;
use crate::{completion, values};

const IMPORT_EXAMPLES: &str = "\
Examples:
  nvvmm disk import debian.qcow2 --name base
  nvvmm disk import /dev/sdb --name usb
  xz -dc debian.raw.xz | nvvmm disk import - --name base
  nvvmm disk import root.erofs --name root --dax
      A disk that guests share as memory, also in a pool on hugetlbfs or a DAX device.";

const CREATE_EXAMPLES: &str = "\
Examples:
  nvvmm disk create data --size 20G
      All of it reads as zeros, and takes no space until a guest writes to it.";

const RESIZE_EXAMPLES: &str = "\
Examples:
  nvvmm disk resize data 40G
  nvvmm disk resize data +10G";

const COPY_EXAMPLES: &str = "\
Examples:
  nvvmm disk copy base web-1
  nvvmm disk copy before-upgrade:data data-then
      The disk 'data' as it was in the snapshot 'before-upgrade'.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  nvvmm disk export data data.img
  nvvmm disk export before-upgrade:data data.qcow2 --format qcow2
  nvvmm disk export data - | zstd > data.img.zst";

const RM_EXAMPLES: &str = "\
Examples:
  nvvmm disk rm data-then
  nvvmm disk rm 'web-*' --dry-run
      Shows which disks would be removed.";

const RESCAN_EXAMPLES: &str = "\
Examples:
  truncate -s +10G root.img && nvvmm disk rescan db
      Makes the image of a disk larger, and tells the guest of the VM 'db'.";

/// `nvvmm disk ...`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make a disk of an image: a raw or qcow2 file, a block device, or raw standard input
    ///
    /// Zeros and holes of the image take no space. The disk appears when all of it is there; an
    /// import that is interrupted leaves nothing. An image that cannot fit is refused before
    /// anything is written. An image of qcow2 must be complete in itself: without a backing file,
    /// another file for its data, or encryption. Snapshots inside it are not imported.
    #[command(after_long_help = IMPORT_EXAMPLES)]
    Import(DiskImportArguments),
    /// Make an empty disk
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create {
        /// Name of the new disk, up to 128 of A-Z a-z 0-9 . _ - @
        #[arg(value_parser = place::new_disk_name)]
        name: String,
        /// Size: bytes, or a number with K, M, G or T (powers of 1024); a multiple of 512 bytes, up
        /// to 32T
        #[arg(long, value_name = "SIZE", value_parser = place::disk_size)]
        size: u64,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// List the disks of a pool, or those that a snapshot has
    ///
    /// USED is the space of its blocks; the rest of the disk reads as zeros. WRITER is the VM that
    /// writes to the disk now.
    #[command(visible_alias = "list")]
    Ls {
        /// List the disks that this snapshot has, as they were at its instant
        #[arg(
            long,
            value_parser = values::snapshot_name,
            add = ArgValueCandidates::new(completion::snapshots)
        )]
        snapshot: Option<String>,
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
    /// Show a disk: size, space, writer, identity
    Info {
        /// Name of the disk; SNAPSHOT:DISK for one of a snapshot
        #[arg(
            value_name = "[SNAPSHOT:]DISK",
            value_parser = place::disk_place,
            add = ArgValueCandidates::new(completion::disks_and_those_of_snapshots)
        )]
        disk: DiskPlace,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Make a disk larger
    ///
    /// The new part reads as zeros and takes no space. A disk cannot be made smaller. File systems
    /// are made larger in the guest.
    #[command(after_long_help = RESIZE_EXAMPLES)]
    Resize {
        /// Name of the disk
        #[arg(value_parser = place::disk_name, add = ArgValueCandidates::new(completion::disks))]
        name: String,
        /// New size, a multiple of 512 bytes; '+10G' adds 10 GiB
        #[arg(value_parser = place::new_disk_size)]
        size: NewSize,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Give a disk another name
    Rename {
        /// Name of the disk
        #[arg(value_parser = place::disk_name, add = ArgValueCandidates::new(completion::disks))]
        name: String,
        /// The new name
        #[arg(value_name = "NEW-NAME", value_parser = place::new_disk_name)]
        new: String,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
    },
    /// Remove disks
    ///
    /// Snapshots and copies keep what they have of a disk.
    #[command(after_long_help = RM_EXAMPLES)]
    Rm(DiskRmArguments),
    /// Copy a disk by reference: at once, whatever its size
    ///
    /// The copy shares all blocks with its original. Blocks that either of them writes are its own.
    #[command(visible_alias = "cp", after_long_help = COPY_EXAMPLES)]
    Copy {
        /// Name of the disk; SNAPSHOT:DISK for one of a snapshot
        #[arg(
            value_name = "[SNAPSHOT:]DISK",
            value_parser = place::disk_place,
            add = ArgValueCandidates::new(completion::disks_and_those_of_snapshots)
        )]
        disk: DiskPlace,
        /// Name of the copy
        #[arg(value_parser = place::new_disk_name)]
        name: String,
        /// The pool.
        #[command(flatten)]
        pool: PoolOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Write a disk as an image file, raw or qcow2
    ///
    /// The file is as sparse as the disk, and appears when all of it is there. While a VM writes to
    /// a disk, take a snapshot of the VM, and export the disk of that.
    #[command(after_long_help = EXPORT_EXAMPLES)]
    Export(DiskExportArguments),
    /// Look at the sizes of a VM's disks anew, and tell the guest
    ///
    /// For an image or a block device that was made larger while the VM runs. The guest learns of
    /// it at once; that of a paused VM, when it goes on. File systems are made larger in the guest.
    #[command(after_long_help = RESCAN_EXAMPLES)]
    Rescan {
        /// Name of the VM
        #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
        vm: String,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
}

/// `nvvmm disk import`.
#[derive(Debug, Args)]
pub struct DiskImportArguments {
    /// Path of the image; - for standard input, which must be raw
    #[arg(value_name = "FILE")]
    pub image: PathBuf,
    /// Name of the new disk, up to 128 of A-Z a-z 0-9 . _ - @
    #[arg(long, value_parser = place::new_disk_name)]
    pub name: String,
    /// Form of the image. By default its first bytes decide
    #[arg(long, value_enum)]
    pub format: Option<ImageFormat>,
    /// Lay the disk out in pieces of 2 MiB, so that any pool can show it as memory ('run --disk
    /// NAME,ro,dax'). Takes 2 MiB for each piece that is not all zeros
    #[arg(long)]
    pub dax: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm disk export`.
#[derive(Debug, Args)]
pub struct DiskExportArguments {
    /// Name of the disk; SNAPSHOT:DISK for one of a snapshot
    #[arg(
        value_name = "[SNAPSHOT:]DISK",
        value_parser = place::disk_place,
        add = ArgValueCandidates::new(completion::disks_and_those_of_snapshots)
    )]
    pub disk: DiskPlace,
    /// Path of the image (for its owner alone); - for standard output, which gets a raw image
    #[arg(value_name = "FILE")]
    pub image: PathBuf,
    /// Form of the image
    #[arg(long, value_enum, default_value = "raw")]
    pub format: ImageFormat,
    /// Replace the file if it exists
    #[arg(short, long)]
    pub force: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report. There is none when the image goes to standard output.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm disk rm`.
#[derive(Debug, Args)]
pub struct DiskRmArguments {
    /// Names of the disks. A pattern in quotes stands for several: 'web-*'
    #[arg(
        required = true,
        value_name = "NAME",
        value_parser = place::disk_names,
        add = ArgValueCandidates::new(completion::disks),
    )]
    pub names: Vec<NamePattern>,
    /// Accept names and patterns that match nothing
    #[arg(short, long)]
    pub force: bool,
    /// Remove nothing: print the names of the disks that would be removed
    #[arg(short = 'n', long, conflicts_with = "json")]
    pub dry_run: bool,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

impl DiskRmArguments {
    /// The disks that are meant.
    pub fn choice(&self) -> Choice<'_> {
        Choice {
            given: &self.names,
            all: false,
            force: self.force,
        }
    }
}

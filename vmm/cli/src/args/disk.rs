//! Options of `nvvmm disk`.

use clap::Subcommand;
use clap_complete::engine::ArgValueCandidates;

use super::JsonFlag;
use crate::{completion, values};

const RESCAN_EXAMPLES: &str = "\
Examples:
  truncate -s +10G root.img && nvvmm disk rescan db
      Makes the image of a disk larger, and tells the guest of the VM 'db'.";

/// `nvvmm disk ...`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
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

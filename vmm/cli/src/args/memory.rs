//! Arguments of `nvvmm memory`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::JsonFlag;
use crate::{completion, values};

/// Examples in the help.
pub const MEMORY_EXAMPLES: &str = "\
Examples:
  nvvmm memory web
  nvvmm memory web --target 1G     take 1 GiB from the guest
  nvvmm memory web --target 0      give it back";

/// `nvvmm memory`.
#[derive(Clone, Debug, Args)]
pub struct MemoryArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// Size that the guest's balloon should have: memory that the guest does without
    #[arg(long, value_name = "SIZE", value_parser = values::balloon)]
    pub target: Option<u64>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

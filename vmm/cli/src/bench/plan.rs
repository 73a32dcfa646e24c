//! Experiments to run, and their settings.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nvvmm::{ErrorKind, VmError};

use super::{bench_pool, host::memory_field};
use crate::human_units;

/// Sizes that the paper's experiments are done with unless others are asked for, in bytes.
const SIZES_USUAL: [u64; 6] = [16 << 20, 64 << 20, 256 << 20, 512 << 20, 1 << 30, 4 << 30];
/// Memory left to the host.
pub const HOST_BYTES: u64 = 1 << 30;
/// Name of the guest's program.
const GUEST: &str = "nvvmm-bare-metal";
/// Variable with the path of the guest's program. clap does not read it: its usage texts would show
/// the option as required then.
const GUEST_VARIABLE: &str = "NVVMM_BAREMETAL_GUEST";
/// Path of the guest in the source tree, seen from `target/<profile>/`.
const GUEST_IN_TREE: &str = "../../guest/bare-metal/target/release";

/// Experiments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExperimentKind {
    /// Checkpoint and restart against copying, by memory touched: the paper's two experiments
    Paper,
    /// Checkpoints after the first, by memory written in between
    Incremental,
    /// Time that a guest which writes all the time loses by a checkpoint: the pause, and the
    /// writes after it, against copying
    Bill,
    /// Time from the request of a restore until the guest has touched its memory once
    WarmUp,
    /// Longest time that a guest stands still while something is done to its VM, to another one, or
    /// to the pool
    Gaps,
    /// Cost of copy-on-write for a guest, compared with the kernel's own
    Cow,
    /// Frames copied for each write, for each policy of cluster sizes
    Clusters,
    /// Mappings that guest memory takes in the worst pattern of writes, and the cost to
    /// stay in the budget
    Mappings,
    /// Checkpoints in a rhythm of a guest that goes on writing, and the way back to one
    Rate,
    /// Way back to a snapshot in place, again and again
    Rewind,
    /// Gain of each technique of copy-on-write
    Techniques,
    /// Cost of checkpoints of an idle guest, and of many clones
    Space,
    /// Much memory of which little is touched, up to 1 TiB
    Sparse,
}

impl ExperimentKind {
    /// All there are, in the order in which they are done.
    pub const ALL: [Self; 13] = [
        Self::Paper,
        Self::Incremental,
        Self::Bill,
        Self::WarmUp,
        Self::Gaps,
        Self::Cow,
        Self::Clusters,
        Self::Mappings,
        Self::Rate,
        Self::Rewind,
        Self::Techniques,
        Self::Space,
        Self::Sparse,
    ];

    /// Name of the experiment on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// One run.
#[derive(Debug)]
pub struct Plan {
    /// Experiments to run, in order.
    pub experiments: Vec<ExperimentKind>,
    /// Memory that guests touch, in bytes, from small to large.
    pub sizes: Vec<u64>,
    /// Repetitions of each measurement.
    pub repeat: usize,
    /// A directory on memory that comes in pages of 4 KiB.
    pub dir: PathBuf,
    /// Directories on memory that comes in huge pages.
    pub huge_dirs: Vec<PathBuf>,
    /// The guest's program.
    pub guest: PathBuf,
    /// vCPUs of guests.
    pub vcpus: u8,
    /// VMs that are started from one snapshot.
    pub clones: usize,
}

impl Plan {
    /// The sizes asked for, or the usual ones that fit into memory and `dir`; and what was left
    /// out, in words.
    ///
    /// # Errors
    /// One that was asked for does not fit, or none does.
    pub fn fitting_sizes(asked: &[u64], dir: &Path) -> Result<(Vec<u64>, Vec<String>), VmError> {
        let room_bytes = bench_pool::room_bytes(dir)?
            .min(memory_field("MemAvailable").saturating_sub(HOST_BYTES));
        let mut sizes = if asked.is_empty() {
            SIZES_USUAL.to_vec()
        } else {
            asked.to_vec()
        };
        sizes.sort_unstable();
        sizes.dedup();
        // A guest's memory and a copy of it.
        let (fitting, too_large): (Vec<u64>, Vec<u64>) =
            sizes.into_iter().partition(|size| size * 2 <= room_bytes);
        let room = human_units::size(room_bytes);
        if fitting.is_empty() || (!asked.is_empty() && !too_large.is_empty()) {
            return Err(VmError::new(
                ErrorKind::Refused,
                format!("guests and their copies do not fit into the {room} that are free"),
            )
            .with_remedy("give smaller --sizes"));
        }
        let left_out = too_large.into_iter().map(|size| {
            format!(
                "Guests with {} touched: two times that does not fit into the {room} that were \
                 free.",
                human_units::size(size)
            )
        });
        Ok((fitting, left_out.collect()))
    }

    /// The guest's program: the one that was given, by option or environment, else the one beside
    /// this program, else the one in the source tree that this program was built in.
    ///
    /// # Errors
    /// There is none.
    pub fn find_guest(given: Option<PathBuf>) -> Result<PathBuf, VmError> {
        let variable = || std::env::var_os(GUEST_VARIABLE).filter(|path| !path.is_empty());
        if let Some(path) = given.or_else(|| variable().map(PathBuf::from)) {
            return path
                .canonicalize()
                .map_err(|e| VmError::io(format_args!("find the guest {}", path.display()), &e));
        }
        let program = std::env::current_exe().map_err(|e| VmError::io("find this program", &e))?;
        let beside = program.parent().unwrap_or(Path::new("/"));
        let mut pools = [beside.join(GUEST), beside.join(GUEST_IN_TREE).join(GUEST)].into_iter();
        pools.find(|path| path.is_file()).ok_or_else(|| {
            VmError::new(
                ErrorKind::NotFound,
                format!(
                    "the guest program {GUEST} is not beside {}",
                    program.display()
                ),
            )
            .with_remedy(
                "build it with 'cargo build --release --manifest-path \
                 guest/bare-metal/Cargo.toml', or name it with --guest",
            )
        })
    }
}

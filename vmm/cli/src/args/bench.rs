//! Options of `nvvmm bench`.

use std::path::PathBuf;

use clap::Args;

use super::JsonFlag;
use crate::bench::ExperimentKind;
use crate::{values, whole_number};

pub(super) const BENCH_HELP: &str = "\
The benchmark runs VMs with nvvmm's bare-metal test guest. It creates its own pools and removes \
them at the end. It verifies all memory of restored guests. Ctrl-C ends it after the current step. \
The host should be idle. Its load is looked at before the run, and the report has a warning \
if it was busy.

To measure huge pages, name a directory with --huge-dir: a mounted hugetlbfs with free pages, or a \
tmpfs that is mounted with huge=always. scripts/bench.sh in the source tree sets up both, and \
removes them again.

Examples:
  nvvmm bench                                   all experiments, as tables
  nvvmm bench paper --sizes 16M,64M,256M --repeat 5
  nvvmm bench bill warm-up --sizes 512M
      time that a guest loses by a checkpoint, and after a restore; two minutes
  nvvmm bench rate --cpus 1
      cost of checkpoints at several intervals, for a guest with one vCPU
  nvvmm bench --huge-dir /mnt/huge --out results
      also write tables, plots (SVG) and all measurements (JSON, CSV) to files
  nvvmm bench bill --merge results/performance.json --out results --force
      measure one experiment anew, and keep the others";

/// `nvvmm bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Experiments to run (default: all)
    #[arg(value_enum, value_name = "EXPERIMENT")]
    pub experiments: Vec<ExperimentKind>,
    /// Amounts of memory that guests touch (default: 16M,64M,256M,512M,1G,4G, as far as they fit).
    /// 'paper' uses all of them, 'bill' and 'warm-up' 512M and the largest. The others use the
    /// largest, but at most: 'cow' and 'techniques' 512M, 'sparse' 1G, 'clusters' 128M, 'rate' and
    /// 'rewind' 64M, 'mappings' 16M
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = values::size)]
    pub sizes: Vec<u64>,
    /// Repetitions of each measurement, 1 to 99
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "3",
        value_parser = whole_number::between::<u8>(1..=99),
    )]
    pub repeat: u8,
    /// vCPUs of each guest, 1 to 8
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "2",
        value_parser = whole_number::between::<u8>(1..=8),
    )]
    pub cpus: u8,
    /// Number of VMs that the experiment 'space' starts from one snapshot, 2 to 200
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "50",
        value_parser = whole_number::between::<u8>(2..=200),
    )]
    pub clones: u8,
    /// Directory on memory with ordinary pages: a tmpfs, or another file system that takes a pool
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub dir: PathBuf,
    /// Directory on a hugetlbfs, or on a tmpfs with huge=always; repeat it for the other kind
    #[arg(long = "huge-dir", value_name = "DIR")]
    pub huge_dirs: Vec<PathBuf>,
    /// Path of the bare-metal test guest (default: that of the variable NVVMM_BAREMETAL_GUEST, else
    /// nvvmm-bare-metal beside this program, or in cargo's target directory)
    #[arg(long, value_name = "FILE")]
    pub guest: Option<PathBuf>,
    /// Write performance.md, performance.json, performance.csv and the plots (in performance/) to
    /// this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace the files of --out that exist
    #[arg(short, long, requires = "out")]
    pub force: bool,
    /// Keep the experiments of an earlier performance.json that are not measured now
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub merge: Option<PathBuf>,
    /// Measure nothing: show the measurements of an earlier performance.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["experiments", "sizes", "huge_dirs"])]
    pub from: Option<PathBuf>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}

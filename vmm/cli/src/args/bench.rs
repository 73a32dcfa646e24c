//! What `nvvmm bench` can be asked.

use std::path::PathBuf;

use clap::Args;

use super::JsonFlag;
use crate::bench::ExperimentKind;
use crate::values;

pub(super) const BENCH_HELP: &str = "\
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
    /// Memory that guests touch (default: 16M,64M,256M,512M,1G,4G, as far as it fits). All but
    /// 'paper' use the largest, 'cow' and 'techniques' 512M of it, 'sparse' 1G, 'clusters'
    /// 128M, 'rate' 64M and 'mappings' 16M at most
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
    /// The guest's program (default: nvvmm-bare-metal beside this program, or where cargo has
    /// built it)
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

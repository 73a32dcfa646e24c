//! What the commands that move snapshots can be asked.

use std::path::PathBuf;

use clap::Args;

use super::{JsonFlag, PoolOption};
use crate::values;

pub(super) const SEND_EXAMPLES: &str = "\
Examples:
  nvvmm send before-upgrade | ssh other nvvmm receive
  nvvmm send after-upgrade --since before-upgrade | ssh other nvvmm receive
      only what differs; the other pool must have 'before-upgrade'
  nvvmm send before-upgrade --output before-upgrade.nvvm
  openssl rand -hex 32 > key
  nvvmm send before-upgrade --encrypt key --output before-upgrade.nvvm
      ChaCha20-Poly1305, with the 64 hexadecimal digits in the file 'key'";

pub(super) const RECEIVE_EXAMPLES: &str = "\
Examples:
  ssh other nvvmm send before-upgrade | nvvmm receive
  nvvmm receive before-upgrade.nvvm --name copy
  nvvmm receive before-upgrade.nvvm --decrypt key";

/// `nvvmm send`.
#[derive(Debug, Args)]
pub struct SendArguments {
    /// Name of the snapshot
    #[arg(value_parser = values::snapshot_name)]
    pub snapshot: String,
    /// Only what differs from this snapshot; whoever receives it must have that one, under any
    /// name
    #[arg(long, value_name = "OTHER", value_parser = values::snapshot_name)]
    pub since: Option<String>,
    /// Where to write the stream: a new file, a pipe, or - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Encrypt with the key in this file (64 hexadecimal digits), which receive then needs, too
    #[arg(long, value_name = "KEY-FILE")]
    pub encrypt: Option<PathBuf>,
    /// How strongly zstd compresses
    #[arg(long, value_name = "1-19", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report, which goes to standard error when the stream goes to standard
    /// output.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm receive`.
#[derive(Debug, Args)]
pub struct ReceiveArguments {
    /// Where to read the stream: a file, a pipe, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Name of the new snapshot; without it the one that it has in the stream (a checkpoint VM@7
    /// becomes VM-7)
    #[arg(long, value_parser = values::new_snapshot_name)]
    pub name: Option<String>,
    /// Decrypt with the key in this file; a stream that is not encrypted is refused then
    #[arg(long, value_name = "KEY-FILE")]
    pub decrypt: Option<PathBuf>,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
}

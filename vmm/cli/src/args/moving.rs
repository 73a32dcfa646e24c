//! Options of the commands that move snapshots.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{JsonFlag, PoolOption};
use crate::completion;
use crate::{values, whole_number};

pub(super) const SEND_EXAMPLES: &str = "\
Examples:
  nvvmm send before-upgrade | ssh other nvvmm receive
  nvvmm send after-upgrade --since before-upgrade | ssh other nvvmm receive
      Sends only the differences. The other pool must have 'before-upgrade'.
  nvvmm send before-upgrade --output before-upgrade.nvvm
  (umask 077; openssl rand -hex 32 > key)
  nvvmm send before-upgrade --encrypt key --output before-upgrade.nvvm
      Encrypts with ChaCha20-Poly1305. The file 'key' has 64 hexadecimal digits.";

pub(super) const RECEIVE_EXAMPLES: &str = "\
Examples:
  ssh other nvvmm send before-upgrade | nvvmm receive
  nvvmm receive before-upgrade.nvvm --name copy
  nvvmm receive before-upgrade.nvvm --decrypt key
  nvvmm receive before-upgrade.nvvm --limit 2G
  nvvmm receive after-upgrade.nvvm --onto before-upgrade";

/// `nvvmm send`.
#[derive(Debug, Args)]
pub struct SendArguments {
    /// Name of the snapshot
    #[arg(
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    pub snapshot: String,
    /// Send only the differences from this snapshot. The receiving pool must have it, under any
    /// name
    #[arg(
        long,
        value_name = "OTHER",
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots),
    )]
    pub since: Option<String>,
    /// Tell the receiver which snapshot this one was taken after, so that it can share memory with
    /// that one
    #[arg(long)]
    pub with_lineage: bool,
    /// Write the stream to a file (for its owner alone), a pipe, or - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace the file if it exists
    #[arg(short, long)]
    pub force: bool,
    /// Encrypt with the key in this file (64 hexadecimal digits, readable by its owner alone).
    /// 'nvvmm receive' then needs the same key
    #[arg(long, value_name = "KEY-FILE")]
    pub encrypt: Option<PathBuf>,
    /// Compression level of zstd
    #[arg(
        long,
        value_name = "1-19",
        default_value = "3",
        value_parser = whole_number::between::<i32>(1..=19),
    )]
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
    /// Read the stream from a file, a pipe, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Name of the new snapshot. The default is its name in the stream; a checkpoint VM@7 becomes
    /// VM-7
    #[arg(long, value_parser = values::new_snapshot_name)]
    pub name: Option<String>,
    /// The snapshot of this pool that the stream builds on, if it is not found by its content, or
    /// an nvvmm wrote the stream that did not name it so
    #[arg(
        long,
        value_name = "OTHER",
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots),
    )]
    pub onto: Option<String>,
    /// Refuse a stream that stores more memory than this
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub limit: Option<u64>,
    /// Decrypt with the key in this file. A stream that is not encrypted is then refused
    #[arg(long, value_name = "KEY-FILE")]
    pub decrypt: Option<PathBuf>,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
}

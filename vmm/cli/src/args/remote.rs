//! Options of `nvvmm push`, `nvvmm pull` and `nvvmm remote`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use nvvmm_remote::{ObjectId, Prefetch, StoreUrl};

use super::{JsonFlag, PoolOption};
use crate::{completion, values, whole_number};

pub(super) const PUSH_HELP: &str = "\
Examples:
  nvvmm push before-upgrade s3://bucket/team --key key
  nvvmm push before-upgrade file:///mnt/shared/store

URLs: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///DIRECTORY.
Credentials are those of the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, \
AWS_ENDPOINT_URL and so on; docs/using/remote-stores.md has them.
With --key everything is encrypted with ChaCha20-Poly1305. The file has 64 hexadecimal digits: \
(umask 077; openssl rand -hex 32 > key)";

pub(super) const PULL_EXAMPLES: &str = "\
Examples:
  nvvmm pull s3://bucket/team/before-upgrade --key key
  nvvmm pull file:///mnt/shared/store/before-upgrade --name copy";

/// The store, and its key.
#[derive(Debug, Args)]
pub struct StoreOption {
    /// URL of the store, such as s3://bucket/team or file:///mnt/store
    #[arg(value_parser = values::store_url)]
    pub url: StoreUrl,
    /// The key in this file (64 hexadecimal digits, readable by its owner alone), with which the
    /// store was made
    #[arg(long, value_name = "KEY-FILE")]
    pub key: Option<PathBuf>,
}

/// `nvvmm push`.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// Name of the snapshot, here and in the store
    #[arg(
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    pub snapshot: String,
    /// URL of the store, such as s3://bucket/team or file:///mnt/store; the first push makes it
    #[arg(value_parser = values::store_url)]
    pub url: StoreUrl,
    /// Encrypt with the key in this file (64 hexadecimal digits, readable by its owner alone).
    /// A store is encrypted if the push that made it had a key
    #[arg(long, value_name = "KEY-FILE")]
    pub key: Option<PathBuf>,
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
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
}

pub(super) const REPLICATE_HELP: &str = "\
Each replica is a snapshot of the VM in the store, with a name such as web@replica-00000007. What \
a lost host costs is the lag: at most --every and the time of a push. It is in each line, in \
'nvvmm ps' and in 'nvvmm stats'.

While the store is away, this command goes on trying, and tells how the lag grows. It ends when \
the VM ends, by Ctrl-C and by SIGTERM.

Examples:
  nvvmm replicate web s3://bucket/web --every 5s --keep 20 --key key
  nvvmm restore s3://bucket/web/web@replica-00000007 --name web --key key
      On another host: the VM goes on from there.";

/// `nvvmm replicate`.
#[derive(Debug, Args)]
pub struct ReplicateArguments {
    /// Name of the VM
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: String,
    /// URL of the store, such as s3://bucket/web or file:///mnt/store; it is made if nothing is
    /// there
    #[arg(value_parser = values::store_url)]
    pub url: StoreUrl,
    /// Interval from the start of one replica to the start of the next, for example 5s; 0 starts
    /// the next one at once
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::period)]
    pub every: Duration,
    /// Number of replicas to keep in the store. Each new one removes the oldest
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "20",
        value_parser = whole_number::between::<u32>(1..=1000),
    )]
    pub keep: u32,
    /// Encrypt with the key in this file (64 hexadecimal digits, readable by its owner alone).
    /// A store is encrypted if the command that made it had a key
    #[arg(long, value_name = "KEY-FILE")]
    pub key: Option<PathBuf>,
    /// Compression level of zstd
    #[arg(
        long,
        value_name = "1-19",
        default_value = "1",
        value_parser = whole_number::between::<i32>(1..=19),
    )]
    pub level: i32,
    /// Go on with the replicas that an earlier VM of the same name left, and remove them as new
    /// ones come. Without this option the command is refused if there are any
    #[arg(long)]
    pub replace: bool,
    /// The form of the output: with --json one object a line.
    #[command(flatten)]
    pub json: JsonFlag,
    /// Pool of the VM: the process that pushes is started.
    #[arg(long, hide = true, value_name = "POOL")]
    pub pusher: Option<PathBuf>,
}

/// Memory that is fetched though the guest has not touched it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PrefetchChoice {
    /// All of it, at first memory that a guest touched when the snapshot was first restored
    #[default]
    All,
    /// Memory that a guest touched when the snapshot was first restored
    Recorded,
    /// None
    None,
}

impl PrefetchChoice {
    /// The choice in the words of the option.
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Recorded => "recorded",
            Self::None => "none",
        }
    }
}

impl From<PrefetchChoice> for Prefetch {
    fn from(choice: PrefetchChoice) -> Self {
        match choice {
            PrefetchChoice::All => Self::All,
            PrefetchChoice::Recorded => Self::Recorded,
            PrefetchChoice::None => Self::None,
        }
    }
}

/// `nvvmm pull`.
#[derive(Debug, Args)]
pub struct PullArguments {
    /// URL of the store, with '/' and the name of the snapshot behind it
    #[arg(value_name = "URL/NAME", value_parser = values::remote_snapshot)]
    pub from: (StoreUrl, String),
    /// Name of the new snapshot. The default is its name in the store; a checkpoint VM@7 becomes
    /// VM-7
    #[arg(long, value_parser = values::new_snapshot_name)]
    pub name: Option<String>,
    /// The key in this file (64 hexadecimal digits, readable by its owner alone), with which the
    /// store was made
    #[arg(long, value_name = "KEY-FILE")]
    pub key: Option<PathBuf>,
    /// A snapshot of this pool that is likely to have much of this one, and is compared with it.
    /// The default is the one that it was taken after, if it is here
    #[arg(
        long,
        value_name = "OTHER",
        value_parser = values::snapshot_name,
        add = ArgValueCandidates::new(completion::snapshots),
    )]
    pub like: Option<String>,
    /// Fetch what this VM lacks, which 'nvvmm restore URL' has started, after the process that
    /// fetched has ended
    #[arg(
        long = "for",
        value_name = "VM",
        value_parser = values::vm_name,
        add = ArgValueCandidates::new(completion::vms),
        conflicts_with = "like",
    )]
    pub for_vm: Option<String>,
    /// With --for: memory that is fetched though the guest has not touched it
    #[arg(long, value_enum, requires = "for_vm")]
    pub prefetch: Option<PrefetchChoice>,
    /// With --for: keep the order of this guest's first touches in the store, in place of an
    /// earlier one
    #[arg(long, requires = "for_vm")]
    pub record: bool,
    /// The VM is still to be started.
    #[arg(long, hide = true, requires = "for_vm")]
    pub ahead: bool,
    /// Refuse a snapshot that stores more memory than this
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub limit: Option<u64>,
    /// The pool.
    #[command(flatten)]
    pub pool: PoolOption,
    /// The form of the report.
    #[command(flatten)]
    pub json: JsonFlag,
}

/// `nvvmm remote ...`.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// List the snapshots of a store
    ///
    /// STORED is what the snapshot has in the store, compressed. Snapshots share it where their
    /// content is the same.
    Ls {
        /// The store.
        #[command(flatten)]
        store: StoreOption,
        /// Print the names only, one on each line
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Remove snapshots of a store
    ///
    /// Their space is free after two runs of 'nvvmm remote gc'.
    Rm {
        /// The store.
        #[command(flatten)]
        store: StoreOption,
        /// Names of the snapshots
        #[arg(required = true, value_parser = values::snapshot_name)]
        snapshots: Vec<String>,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Delete what no snapshot of a store needs
    ///
    /// One run condemns it, a later one deletes it: a push under way may count on it. A push that
    /// has died looks as if it were under way. Such pushes are listed, and ended by --end-push.
    Gc {
        /// The store.
        #[command(flatten)]
        store: StoreOption,
        /// End a push that is known to be dead. If it is not, it fails
        #[arg(long, value_name = "ID", value_parser = values::push_id)]
        end_push: Option<ObjectId>,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Read all that the snapshots of a store need, and compare it with its digests
    Verify {
        /// The store.
        #[command(flatten)]
        store: StoreOption,
        /// The form of the output.
        #[command(flatten)]
        json: JsonFlag,
    },
}

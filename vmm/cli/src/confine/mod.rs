//! Confinement of the commands that parse bytes of others: `receive`, `inspect`, `diff`, `export`,
//! `disk import`, `disk export`, `pool check`, `pool scrub`, `pool map` and `pool mount`; and of
//! `push`, `pull` and `remote`, as far as an object store allows.
//!
//! Such a command opens its input and output, and then calls [`to_pool`]. From there on it opens
//! no file but the pool, connects to nothing, starts no program and reaches no other process. What
//! it must do to other files at its end, a [`Helper`] does, which has parsed nothing.

mod calls;
mod helper;
#[cfg(debug_assertions)]
mod trial;

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::prctl::set_dumpable;
use nvvmm::{ErrorKind, VmError};

pub use self::helper::Helper;

/// Facts of the kernel that the crate of the pool reads: random bytes, memory that is left, this
/// boot, this process, the device under the pool, huge pages. None of it belongs to a user.
const FACTS: [&str; 7] = [
    "/dev/urandom",
    "/proc/meminfo",
    "/proc/self/stat",
    "/proc/sys/kernel/random/boot_id",
    "/sys/dev",
    "/sys/devices",
    "/sys/kernel/mm/hugepages",
];
/// Files for finding hosts by name, in the ways of glibc, and for trusting their certificates.
const NETWORK_FILES: [&str; 16] = [
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
];
/// Variables that name files with credentials or certificates, as the crate `object_store` reads
/// them.
const CREDENTIALS: [&str; 8] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
/// The newest rules of Landlock that this program knows. An older kernel has fewer.
const LANDLOCK: ABI = ABI::V6;

/// Confines this process, which has one thread, to its open files and to the pool at `pool`. The
/// pool need not be open yet.
///
/// # Errors
/// [`ErrorKind::HostLacks`] when the kernel has no seccomp filters.
pub fn to_pool(pool: &Path) -> Result<(), VmError> {
    confine(Some(pool), &[], Makes::Nothing, calls::Network::None)
}

/// The place where a confined command makes files.
#[derive(Clone, Copy)]
enum Makes<'p> {
    /// Nowhere.
    Nothing,
    /// In this directory, if it can be kept to it.
    IfKept(&'p Path),
    /// In and below this directory: it is what the command is for.
    All(&'p Path),
}

/// Confines this process to the pool, to reading these files, and below these directories, and to
/// making files in `makes`.
fn confine(
    pool: Option<&Path>,
    read: &[PathBuf],
    makes: Makes<'_>,
    network: calls::Network,
) -> Result<(), VmError> {
    let failed = |what: &dyn std::fmt::Display| {
        VmError::new(
            ErrorKind::HostLacks,
            format!("cannot confine this command, which parses what others wrote: {what}"),
        )
        .with_remedy("use a kernel with CONFIG_SECCOMP_FILTER; 'nvvmm doctor' shows what it has")
    };
    set_dumpable(false).map_err(|e| failed(&e))?;
    let files = restrict_files(pool, read, makes, network).map_err(|e| failed(&e))?;
    if files == RulesetStatus::NotEnforced {
        tracing::info!("this kernel has no Landlock: only system calls are restricted");
    }
    // Without Landlock files would be made anywhere.
    let files = match makes {
        Makes::All(_) => calls::Files::Made,
        Makes::IfKept(_) if files != RulesetStatus::NotEnforced => calls::Files::Made,
        Makes::IfKept(_) | Makes::Nothing => calls::Files::Opened,
    };
    calls::restrict(std::process::id(), network, files).map_err(|e| failed(&e))?;
    #[cfg(debug_assertions)]
    trial::try_what_is_asked();
    Ok(())
}

/// The things outside of a pool that a confined command needs of an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// A directory, and nothing else.
    Directory {
        /// The directory.
        path: PathBuf,
        /// True if files in it are made and removed.
        writes: bool,
        /// A directory in it, the only one in which files are made.
        makes: Option<PathBuf>,
    },
    /// Servers on the network, and what finding and trusting them takes.
    Network,
}

/// Confines this process, which has one thread, to its open files, to an object store, and to a
/// pool if one is given.
///
/// # Errors
/// [`ErrorKind::HostLacks`] when the kernel has no seccomp filters.
pub fn to_store(store: &Reach, pool: Option<&Path>) -> Result<(), VmError> {
    match store {
        Reach::Directory {
            path,
            writes,
            makes,
        } => {
            let makes = match (writes, makes) {
                (true, _) => Makes::All(path),
                (false, Some(directory)) => Makes::IfKept(directory),
                (false, None) => Makes::Nothing,
            };
            confine(
                pool,
                std::slice::from_ref(path),
                makes,
                calls::Network::None,
            )
        }
        Reach::Network => {
            let (files, network) = (files_of_networks(), calls::Network::Clients);
            confine(pool, &files, Makes::Nothing, network)
        }
    }
}

/// Files by which a host's name is found, and a server is trusted; and files with credentials that
/// the environment names.
fn files_of_networks() -> Vec<PathBuf> {
    let named = CREDENTIALS.iter().filter_map(std::env::var_os);
    let named = named.map(PathBuf::from);
    let home = std::env::home_dir();
    let gcloud = home.map(|home| home.join(".config/gcloud/application_default_credentials.json"));
    let fixed = NETWORK_FILES.iter().map(PathBuf::from);
    fixed.chain(named).chain(gcloud).collect()
}

/// Takes all rights to files away, but those of the pool and to read [`FACTS`] and `read`; and
/// those to TCP ports, to abstract sockets and to signals of other processes.
fn restrict_files(
    pool: Option<&Path>,
    read: &[PathBuf],
    makes: Makes<'_>,
    network: calls::Network,
) -> Result<RulesetStatus, RulesetError> {
    let of_pool =
        AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let of_fact = AccessFs::ReadFile | AccessFs::ReadDir;
    let ports = match network {
        calls::Network::None => AccessNet::from_all(LANDLOCK),
        calls::Network::Clients => AccessNet::BindTcp.into(),
    };
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(ports)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let facts = FACTS.iter().map(Path::new);
    let facts = facts.chain(read.iter().map(PathBuf::as_path));
    let facts = facts.map(|fact| (fact, of_fact));
    let of_made = of_fact | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile;
    let makes = match makes {
        Makes::Nothing => None,
        Makes::IfKept(directory) => Some((directory, of_made)),
        Makes::All(directory) => Some((directory, of_made | AccessFs::MakeDir)),
    };
    let of_pool = pool.map(|pool| (pool, of_pool));
    for (path, rights) in facts.chain(of_pool).chain(makes) {
        // A fact that is not there is not read; for a pool that is not there its opening fails.
        let Ok(file) = PathFd::new(path) else {
            continue;
        };
        rules = rules.add_rule(PathBeneath::new(file, fitting(path, rights)))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// The rights that the kind of file at `path` can have.
fn fitting(path: &Path, rights: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    match path.is_dir() {
        true => rights,
        false => rights & AccessFs::from_file(LANDLOCK),
    }
}

//! `nvvmm restore URL/NAME`: a VM of a snapshot in an object store runs before it has arrived.
//!
//! A second process fetches (`fetch`). The VM is restored as ever, of the incomplete file that the
//! snapshot is in this pool until all has arrived.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use nvvmm::{ErrorKind, VmError};

use super::args::RestoreArguments;
use super::fetch::Beginning;
use super::given_path::absolute;
use super::values;

/// True if the snapshot is one of a store.
pub fn is_url(snapshot: &str) -> bool {
    snapshot.contains("://")
}

/// The process that fetches, and whether all is there. It ends if the command does before the VM
/// has its memory.
pub struct Fetcher {
    _process: Child,
}

/// Outcome of a start of the process that fetches.
pub enum Started {
    /// The process goes on in the background.
    Fetches(Fetcher),
    /// The process has printed why it does not.
    Failed(ExitCode),
}

/// Checks the arguments for a snapshot that arrives. Gives the name of the VM.
///
/// # Errors
/// What cannot be done with such a snapshot.
pub fn check(arguments: &RestoreArguments) -> Result<String, VmError> {
    let usage =
        |text: &str, remedy: &str| Err(VmError::new(ErrorKind::Usage, text).with_remedy(remedy));
    let pull = "pull it first with 'nvvmm pull', and restore the snapshot of the pool";
    let Some(vm) = &arguments.start.name else {
        return usage(
            "a VM of a store's snapshot needs a name",
            "give it with --name VM",
        );
    };
    if arguments.count.is_some() || arguments.into.is_some() {
        return usage("--count and --into need a snapshot of the pool", pull);
    }
    if arguments.once || arguments.prefault {
        return usage(
            "--once and --prefault need all of the snapshot, and it is still to arrive",
            pull,
        );
    }
    if arguments.start.uid.is_some() {
        return usage("--uid cannot be used with a store's snapshot", pull);
    }
    Ok(vm.clone())
}

/// Refuses options that only a snapshot of a store has.
///
/// # Errors
/// One was given.
pub fn refuse_options_of_stores(arguments: &RestoreArguments) -> Result<(), VmError> {
    let is_none =
        arguments.key.is_none() && arguments.pulled_as.is_none() && arguments.prefetch.is_none();
    match is_none && !arguments.record {
        true => Ok(()),
        false => Err(VmError::new(
            ErrorKind::Usage,
            "--key, --pulled-as, --prefetch and --record are for a snapshot of a store",
        )
        .with_remedy("give its URL, such as s3://bucket/team/base")),
    }
}

/// Has the arguments name the snapshot as it is in this pool.
///
/// # Errors
/// The URL names none.
pub fn name_here(arguments: &mut RestoreArguments) -> Result<(), VmError> {
    let (_, name) = values::remote_snapshot(&arguments.snapshot)
        .map_err(|fault| VmError::new(ErrorKind::Usage, fault))?;
    let own_name = name.replace('@', "-");
    arguments.snapshot = arguments.pulled_as.clone().unwrap_or(own_name);
    arguments.is_arriving = true;
    Ok(())
}

/// Starts the process that fetches, and waits until a VM can be built.
///
/// # Errors
/// It cannot be started.
pub fn start(arguments: &RestoreArguments, vm: &str) -> Result<Started, VmError> {
    let failed = |e: std::io::Error| VmError::io("start the process that fetches", &e);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("nvvmm");
    command.args(["pull", &arguments.snapshot, "--ahead", "--for", vm]);
    if let Some(name) = &arguments.pulled_as {
        command.args(["--name", name]);
    }
    if let Some(key) = &arguments.key {
        command.arg("--key").arg(absolute("the key", key)?);
    }
    if let Some(prefetch) = arguments.prefetch {
        command.args(["--prefetch", prefetch.word()]);
    }
    if arguments.record {
        command.arg("--record");
    }
    if let Some(pool) = arguments.start.pool.path() {
        command.arg("--pool").arg(pool);
    }
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(said) = process.stdout.take() {
        BufReader::new(said).read_line(&mut line).map_err(failed)?;
    }
    match serde_json::from_str(&line) {
        Ok(Beginning::There | Beginning::Arriving) => {
            Ok(Started::Fetches(Fetcher { _process: process }))
        }
        Err(_) => {
            let status = process.wait().map_err(failed)?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(Started::Failed(ExitCode::from(
                code.filter(|code| *code > 0).unwrap_or(1),
            )))
        }
    }
}

//! The VM process: a VM with a name in the registry and a control socket, until it ends.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nvvmm::control::{ControlServer, VmRuntimePaths, VmStatus};
use nvvmm::cow::Techniques;
use nvvmm::vm::{Vm, VmExit, VmOptions, VmSource};
use nvvmm::{ErrorKind, VmError};
use nvvmm_devices::{ConsoleStreams, HostSocket};
use nvvmm_snapshot::Pool;

use super::privileges::Account;

/// Switches KVM's dirty log on, so that `audit` can compare it with the engine. Only builds with
/// debug assertions read it; tests set it, to anything.
const DIRTY_LOG_VARIABLE: &str = "NVVMM_TEST_DIRTY_LOG";

/// Everything that one VM process needs. All paths are absolute.
#[derive(Debug)]
pub struct VmProcess {
    /// The pool, which exists.
    pub pool: PathBuf,
    /// The user that the process becomes before the guest runs.
    pub account: Option<Account>,
    /// A new machine or a snapshot.
    pub source: VmSource,
    /// Use of this process's standard streams.
    pub console: ConsoleMode,
    /// Build the machine but do not let the guest run until it is resumed.
    pub paused: bool,
    /// Name of the VM, claimed in the registry already, and paths of its sockets.
    pub runtime: VmRuntimePaths,
}

/// Streams of the guest's console besides its socket [`VmRuntimePaths::console`].
#[derive(Debug)]
pub enum ConsoleMode {
    /// Output also goes to stdout, input also comes from `input`.
    Stdio {
        /// Read end of a pipe with what the user typed (non-blocking; Ctrl-] is taken out of it
        /// already). End of file means that no more input comes, not that the VM should end.
        input: OwnedFd,
    },
    /// Only the socket.
    SocketOnly,
}

/// Runs the VM until it ends. Calls `on_ready` once, when the control socket answers and the guest
/// runs, or when the machine is built and paused if that was asked for.
///
/// # Errors
/// Before `on_ready`: the VM could not be started. After it: the VM had to end.
pub fn run(process: VmProcess, on_ready: &mut dyn FnMut(&VmStatus)) -> Result<VmExit, VmError> {
    let pool = Pool::open(&process.pool)?;
    process
        .account
        .map_or(Ok(()), |account| account.become_it())?;
    let paths = process.runtime;
    let mut console = match process.console {
        ConsoleMode::SocketOnly => ConsoleStreams::default(),
        ConsoleMode::Stdio { input } => {
            let mut streams =
                ConsoleStreams::stdio(false).map_err(|e| VmError::io("open the console", &e))?;
            streams.input = Some(File::from(input));
            streams
        }
    };
    let socket = HostSocket::bind(&paths.console);
    console.socket = Some(socket.map_err(|e| VmError::io("make the console socket", &e))?);
    let options = VmOptions {
        name: paths.name,
        paused: process.paused,
        console,
        vsock: Some(paths.vsock),
        dirty_log: cfg!(debug_assertions) && std::env::var_os(DIRTY_LOG_VARIABLE).is_some(),
        techniques: Techniques::from_environment()
            .map_err(|cause| VmError::new(ErrorKind::Usage, cause))?,
    };
    let vm = Vm::begin(&pool, process.source, options)?;
    let _server = ControlServer::start(&paths.control, vm.control())?;
    on_ready(&vm.wait_ready()?);
    vm.wait()
}

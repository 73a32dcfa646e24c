//! The VM process: a VM with a name in the registry and a control socket, until it ends.
//!
//! At first it is a launcher: [`VmProcess::open`] opens everything and confines the process
//! (`sandbox`), which has one thread until then. [`VmProcess::run`] builds the VM and runs it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl::set_name;
use nix::unistd::close;
use nvvmm::checkpoint::report::RestoreReport;
use nvvmm::control::life::{End, LifeFile};
use nvvmm::control::past::KeptLife;
use nvvmm::control::unlisted::process_name;
use nvvmm::control::{Claim, ControlServer, SandboxStatus, VmControl, VmRuntimePaths, VmStatus};
use nvvmm::cow::Techniques;
use nvvmm::spec::files::OpenedFiles;
use nvvmm::threads::ThreadKind;
use nvvmm::vm::{self, OnReboot, Vm, VmExit, VmOptions, VmSource, VsockSockets};
use nvvmm::{ErrorKind, VmError};
use nvvmm_devices::{ConsoleStreams, HostSocket};
use nvvmm_snapshot::Pool;

use super::privileges::{Account, as_user};
use super::restore_notes::AGENT_PATIENCE;
use super::sandbox::{self, Helper};
use super::{start_warnings, sys};

/// Target of the log lines about the life of a VM, which a VM in the background always writes.
pub const LIFE: &str = "nvvmm_life";
/// Switches KVM's dirty log on, so that `audit` can compare it with the engine. Only builds with
/// debug assertions read it; tests set it, to anything.
const DIRTY_LOG_VARIABLE: &str = "NVVMM_TEST_DIRTY_LOG";
/// Have a fault point, or a lack of the host, follow a file, which a confined process could not
/// see.
#[cfg(debug_assertions)]
const FILE_VARIABLES: [&str; 2] = ["NVVMM_FAULT_WAIT", "NVVMM_TEST_LACK"];
/// Name of a VM that stands by, until somebody takes it: the pool has no other one to show.
const SPARE_NAME: &str = "spare";
/// A number above those of a VM's descriptors, unless it has hundreds of streams or disks.
const HIGH_DESCRIPTOR: i32 = 511;

/// A process that has all that its VM needs, and is confined unless that was not wanted.
pub struct VmProcess {
    source: VmSource,
    pool: Arc<Pool>,
    control: UnixListener,
    console: HostSocket,
    vsock: VsockSockets,
    files: Option<OpenedFiles>,
    dirty_log: bool,
    techniques: Techniques,
    sandbox: SandboxStatus,
    warnings: Vec<VmError>,
    kept: KeptLife,
    paths: VmRuntimePaths,
    /// Dropped last: others see the VM until then.
    _name: Name,
}

/// Hears that a VM stands by.
pub type StandbyListener = Box<dyn FnOnce(&VmStatus)>;

/// Begin of a VM.
pub struct Begin {
    /// The guest does not run until it is resumed.
    pub paused: bool,
    /// Consequence of a reboot of the guest.
    pub on_reboot: OnReboot,
    /// Has the VM stand by, once its machine is built; called when it does.
    pub on_standby: Option<StandbyListener>,
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

/// The VM's name in the registry, and whoever removes its files at the end.
struct Name {
    claim: Option<Claim>,
    helper: Option<Helper>,
}

impl Drop for Name {
    fn drop(&mut self) {
        let (Some(claim), Some(helper)) = (self.claim.take(), &self.helper) else {
            return;
        };
        if let Err(error) = helper.remove_files() {
            tracing::warn!(%error, "the files of the VM stay until the next command looks at them");
        }
        claim.keep_without_files();
    }
}

impl VmProcess {
    /// Opens all that the VM needs while it lives, becomes the user of `account`, and confines this
    /// process if `confined`. The process must have one thread. All paths are absolute; the pool
    /// exists. `kept` are the files of the VM's life.
    ///
    /// # Errors
    /// Something cannot be opened, or the process cannot be confined.
    pub fn open(
        (claim, kept): (Claim, KeptLife),
        pool: &Path,
        source: VmSource,
        account: Option<&Account>,
        confined: bool,
    ) -> Result<Self, VmError> {
        let paths = claim.paths().clone();
        let directory = claim.directory().path().to_owned();
        let confined = confined && !is_steered_by_a_file();
        // What the arguments took. The helper gets a copy of the rest.
        sys::trim_heap();
        // Before anything is open that must not outlive this process.
        let helper = confined
            .then(|| Helper::start(&claim, account))
            .transpose()?;
        let name = Name {
            claim: Some(claim),
            helper,
        };
        // The pool and the sockets are the user's, also if root starts the process.
        let pool = as_user(account, || Ok(Pool::open(pool)?))?;
        let (console, mut vsock, control) = as_user(account, || bind(&paths))?;
        if let Some(helper) = &name.helper {
            vsock.guest = vsock.guest.with_connector(helper.connector());
        }
        let files = match confined || account.is_some() {
            true => vm::open_ahead(&pool, &source, &paths.name)?,
            false => None,
        };
        let dirty_log = cfg!(debug_assertions) && std::env::var_os(DIRTY_LOG_VARIABLE).is_some();
        let techniques = Techniques::from_environment()
            .map_err(|cause| VmError::new(ErrorKind::Usage, cause))?;
        let warnings = start_warnings::of(&pool, &source);
        account.map_or(Ok(()), Account::become_it)?;
        // passt and the helper are there by now. A confined process cannot wait for one.
        sys::forget_children_that_end()
            .map_err(|e| VmError::io("leave the VM's children to the system", &e))?;
        lengthen_descriptor_table();
        let sandbox = match confined {
            true => sandbox::enter(&directory)?,
            false => sandbox::stay_out(),
        };
        Ok(Self {
            source,
            pool,
            control,
            console,
            vsock,
            files,
            dirty_log,
            techniques,
            sandbox,
            warnings,
            kept,
            paths,
            _name: name,
        })
    }

    /// Things to tell the user about this VM.
    pub fn warnings(&self) -> Vec<VmError> {
        self.warnings.clone()
    }

    /// Runs the VM until it ends. Calls `on_control` when it can be asked to stop, and `on_ready`
    /// once, when the control socket answers and the guest runs, or when the machine is built and
    /// `paused` if that was asked for. Notes in the record of the VM what becomes of it.
    ///
    /// # Errors
    /// Before `on_ready`: the VM could not be started. After it: the VM had to end.
    pub fn run(
        self,
        console: ConsoleMode,
        begin: Begin,
        on_control: impl FnOnce(Arc<dyn VmControl>),
        on_ready: impl FnOnce(&VmStatus),
    ) -> Result<VmExit, VmError> {
        let mut streams = match console {
            ConsoleMode::SocketOnly => ConsoleStreams::default(),
            ConsoleMode::Stdio { input } => {
                let mut streams = ConsoleStreams::stdio(false)
                    .map_err(|e| VmError::io("open the console", &e))?;
                streams.input = Some(File::from(input));
                streams
            }
        };
        streams.socket = Some(self.console);
        streams.kept = Some(self.kept.output);
        let paths = self.paths;
        let life = Arc::new(self.kept.record);
        let hear_reboot = {
            let life = Arc::clone(&life);
            move |count| {
                life.rebooted(count);
                tracing::info!(target: LIFE, "the guest reboots (number {count})");
            }
        };
        // The helper finds the VM's files by its name.
        let helper = self._name.helper.clone();
        let hear_taken = move |name: &str| {
            let renamed = helper.as_ref().map_or(Ok(()), |helper| helper.rename(name));
            renamed.map_err(|e| VmError::io(format_args!("take the name '{name}'"), &e))
        };
        let options = VmOptions {
            name: match begin.on_standby {
                Some(_) => SPARE_NAME.to_owned(),
                None => paths.name,
            },
            paused: begin.paused,
            standby: begin.on_standby.is_some(),
            hear_taken: Some(Arc::new(hear_taken)),
            console: streams,
            vsock: Some(paths.vsock),
            vsock_sockets: Some(self.vsock),
            files: self.files,
            sandbox: Some(self.sandbox),
            dirty_log: self.dirty_log,
            techniques: self.techniques,
            on_reboot: begin.on_reboot,
            hear_reboot: Some(Arc::new(hear_reboot)),
        };
        sandbox::begin_thread(ThreadKind::Operations);
        let vm = Vm::begin(&self.pool, self.source, options)?;
        let _server = ControlServer::serve(self.control, vm.control())?;
        on_control(vm.control());
        let stands_by = begin.on_standby.is_some();
        if let Some(on_standby) = begin.on_standby {
            on_standby(&vm.wait_standby()?);
        }
        let ready = match stands_by {
            true => vm.wait_taken()?,
            false => Some(vm.wait_ready()?),
        };
        let Some(mut ready) = ready else {
            return Ok(VmExit::Stopped);
        };
        life.running();
        if stands_by {
            set_process_name(&ready.name);
        }
        tracing::info!(target: LIFE, "{} runs (pid {})", ready.name, ready.pid);
        let restore = ready.restore.as_ref();
        if restore.is_some_and(RestoreReport::awaits_agent) && !stands_by {
            ready = vm.wait_agent(AGENT_PATIENCE);
        }
        on_ready(&ready);
        let exit = vm.wait();
        note_end(&life, &exit);
        exit
    }
}

/// Names this process after its VM, for `ps` and `top`.
pub fn set_process_name(vm: &str) {
    // It is for people. Names of VMs have no NUL.
    if let Ok(name) = CString::new(process_name(vm)) {
        let _ = set_name(&name);
    }
}

/// Makes the table of descriptors long enough, while this process has one thread. When it grows
/// later, Linux waits for all readers (RCU), which takes two to four ticks of its clock
/// (expand_fdtable() in fs/file.c).
fn lengthen_descriptor_table() {
    // Where the limit is lower, the table grows as it is needed.
    if let Ok(high) = fcntl(io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(HIGH_DESCRIPTOR)) {
        let _ = close(high);
    }
}

/// Notes why the VM has ended.
fn note_end(life: &LifeFile, exit: &Result<VmExit, VmError>) {
    let (end, text) = match exit {
        Ok(VmExit::PoweredOff) => (End::PoweredOff, None),
        Ok(VmExit::Rebooted) => (End::Rebooted, None),
        Ok(VmExit::TripleFault { what }) => (End::TripleFault, Some(what.as_str())),
        Ok(VmExit::Stopped) => (End::Stopped, None),
        Ok(VmExit::Snapshotted { snapshot }) => (End::Snapshotted, Some(snapshot.as_str())),
        Err(error) => (End::Failed, Some(error.message.as_str())),
    };
    life.ended(end, text);
}

/// The sockets of the console, of the vsock device and of control.
fn bind(paths: &VmRuntimePaths) -> Result<(HostSocket, VsockSockets, UnixListener), VmError> {
    let console =
        HostSocket::bind(&paths.console).map_err(|e| VmError::io("make the console socket", &e))?;
    let vsock =
        VsockSockets::bind(&paths.vsock).map_err(|e| VmError::io("make the vsock socket", &e))?;
    Ok((console, vsock, ControlServer::bind(&paths.control)?))
}

/// True if a test steers this process by a file.
fn is_steered_by_a_file() -> bool {
    #[cfg(debug_assertions)]
    return FILE_VARIABLES
        .iter()
        .any(|variable| std::env::var_os(variable).is_some());
    #[cfg(not(debug_assertions))]
    false
}

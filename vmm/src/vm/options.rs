//! Settings that a VM is started with, and its end.

use std::{
    fmt,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use nvvmm_devices::{ConsoleStreams, HostSocket};

use super::{BootChoice, VmError};
use crate::{
    control::{AgentOrders, SandboxStatus, TimeOfDay},
    cow::Techniques,
    disk::DisksFrom,
    spec::{DiskSpec, NetChoice, Published, VmSpec, files::OpenedFiles},
};

/// Settings of a VM that are not part of its machine. No snapshot holds them.
#[derive(Default)]
pub struct VmOptions {
    /// Name of the VM in the pool and in reports.
    pub name: String,
    /// Builds the machine, but does not let the guest run until [`Vm::resume`](super::Vm::resume).
    pub paused: bool,
    /// Streams of the guest's serial console. By default output is dropped and no input comes.
    pub console: ConsoleStreams,
    /// Builds the machine of a snapshot and stands by, until somebody takes it over through the
    /// control socket ([`TakeRequest`](crate::control::TakeRequest)). Only then the machine gets
    /// the state of the snapshot, and a name.
    pub standby: bool,
    /// Hears of the name that the VM has from now on, when it is taken over. An error ends the VM.
    pub hear_taken: Option<TakenListener>,
    /// Path of the socket that host programs use to reach the guest's vsock device. The agent in
    /// the guest then connects to this process at the same path with `_512` added. A machine
    /// with a vsock device needs this path; [`VmSpec::vsock`] switches the device off.
    pub vsock: Option<PathBuf>,
    /// The sockets at `vsock`, bound already. By default they are bound when the VM is built.
    pub vsock_sockets: Option<VsockSockets>,
    /// Files of the machine, opened already ([`open_ahead`](super::open_ahead)). By default they
    /// are opened when the VM is built.
    pub files: Option<OpenedFiles>,
    /// Confinement of this process, for the status of the VM.
    pub sandbox: Option<SandboxStatus>,
    /// Switches KVM's dirty log on, so that [`Vm::audit`](super::Vm::audit) can compare it with the
    /// engine. For tests: it costs time.
    pub dirty_log: bool,
    /// Optimisations of the copy-on-write engine that are used.
    pub techniques: Techniques,
    /// Consequence of a reset of the machine: of a reboot of its guest, or of a triple fault.
    pub on_reboot: OnReboot,
    /// Hears of each reboot of the guest; called with their number so far. Must not wait.
    pub hear_reboot: Option<RebootListener>,
}

/// Hears of the new name of a VM that is taken over.
pub type TakenListener = Arc<dyn Fn(&str) -> Result<(), VmError> + Send + Sync>;

/// Hears of a reboot of the guest.
pub type RebootListener = Arc<dyn Fn(u64) + Send + Sync>;

/// Consequence of a reset of a VM's machine by its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReboot {
    /// The machine is built anew, and boots its kernel.
    #[default]
    Restart,
    /// The VM ends.
    Exit,
}

impl VmOptions {
    /// The default settings, with a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Connects the guest's serial console to a stream, and returns these settings with the other
    /// end of it. Output that is not read is dropped when a buffer is full.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn with_console(mut self) -> io::Result<(Self, UnixStream)> {
        let (guest, host) = UnixStream::pair()?;
        guest.set_nonblocking(true)?;
        self.console.input = Some(File::from(OwnedFd::from(guest.try_clone()?)));
        self.console.output = Some(File::from(OwnedFd::from(guest)));
        Ok((self, host))
    }
}

/// Sockets of the host at which a vsock device and the guest's agent are reached.
pub struct VsockSockets {
    /// The device's: programs of the host connect to it.
    pub guest: HostSocket,
    /// This process's: the agent in the guest connects to it.
    pub agent: HostSocket,
}

impl VsockSockets {
    /// Binds both: the device's at `path`, the agent's at the same path with `_512` added.
    ///
    /// # Errors
    /// As [`HostSocket::bind`].
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self {
            guest: HostSocket::bind(path)?,
            agent: HostSocket::bind(&agent_path(path))?,
        })
    }
}

/// Path at which the agent in the guest is heard: the vsock device connects streams to a port of
/// the host to the socket at the device's path with `_` and the port added.
pub(super) fn agent_path(vsock: &Path) -> PathBuf {
    let mut path = vsock.as_os_str().to_owned();
    path.push(format!("_{}", nvvmm_protocol::HOST_PORT));
    path.into()
}

impl fmt::Debug for VmOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmOptions")
            .field("name", &self.name)
            .field("paused", &self.paused)
            .field("vsock", &self.vsock)
            .field("dirty_log", &self.dirty_log)
            .field("techniques", &self.techniques)
            .field("on_reboot", &self.on_reboot)
            .finish_non_exhaustive()
    }
}

/// Source of a VM's memory and state.
#[derive(Clone, Debug)]
pub enum VmSource {
    /// A new machine, which boots a kernel.
    Boot(VmSpec),
    /// A snapshot in the pool.
    Restore(RestoreOptions),
}

/// Snapshot that a VM is restored from, and the way this is done.
///
/// ```
/// # use nvvmm::RestoreOptions;
/// let lazily = RestoreOptions::from("base");
/// let at_once = RestoreOptions {
///     prefault: true,
///     ..RestoreOptions::from("base")
/// };
/// assert_eq!(lazily.snapshot, at_once.snapshot);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Disks that replace those of the snapshot's machine, in the guest's order. A snapshot that
    /// came from elsewhere and has disks needs them.
    pub disks: Option<Vec<DiskSpec>>,
    /// Files that a guest that reboots boots from, in place of those that the snapshot names. A
    /// snapshot that came from elsewhere names none that is used: without this, the VM ends when
    /// its guest reboots.
    pub boot: Option<BootChoice>,
    /// Network in place of that of the snapshot's machine. A snapshot that came from elsewhere and
    /// has a card needs it.
    pub net: Option<Box<NetChoice>>,
    /// Ports of the host that lead into the guest, where the card stays at passt. Those of the
    /// snapshot's VM are not published again.
    pub published: Vec<Published>,
    /// Removes the copies of disks of the pool that are made for this VM when it ends, whatever was
    /// written to them. By default those that were written stay.
    pub ephemeral: bool,
    /// Consumes the snapshot: it leaves the pool, and the VM owns its blocks.
    pub once: bool,
    /// Fills the page tables before the guest runs.
    pub prefault: bool,
    /// The snapshot may still arrive from an object store, by a process that says so through the
    /// control socket. The guest runs meanwhile.
    pub arriving: bool,
    /// The guest's time of day. By default the agent in the guest sets it to the host's.
    pub time_of_day: TimeOfDay,
    /// Leaves the guest's connections to other machines as they are. By default the agent in the
    /// guest ends them.
    pub keep_connections: bool,
    /// Takes the disks as they are, also if they were written after the snapshot. The guest's file
    /// systems on them may break. Without this, such a restore is refused.
    pub stale_disks: bool,
}

impl RestoreOptions {
    /// Orders for the guest's agent.
    pub(super) fn agent_orders(&self) -> AgentOrders {
        AgentOrders {
            time_of_day: self.time_of_day,
            keep_connections: self.keep_connections,
        }
    }

    /// The snapshot of this name, with orders for the guest's agent.
    pub(super) fn with_orders(snapshot: &str, orders: AgentOrders) -> Self {
        Self::from(snapshot).ordered(orders)
    }

    /// The same with other orders.
    pub(super) fn ordered(self, orders: AgentOrders) -> Self {
        Self {
            time_of_day: orders.time_of_day,
            keep_connections: orders.keep_connections,
            ..self
        }
    }

    /// The place that the content of the pool's disks is taken from.
    pub(super) fn disks_from(&self) -> DisksFrom<'_> {
        match self.disks {
            Some(_) => DisksFrom::Newest,
            None => DisksFrom::Snapshot {
                snapshot: &self.snapshot,
                ephemeral: self.ephemeral,
            },
        }
    }
}

impl From<&str> for RestoreOptions {
    fn from(snapshot: &str) -> Self {
        Self {
            snapshot: snapshot.to_owned(),
            ..Self::default()
        }
    }
}

/// End of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest rebooted, and [`OnReboot::Exit`] was set.
    Rebooted,
    /// The guest took an exception that it cannot handle, and [`OnReboot::Exit`] was set, or it is
    /// a guest without handlers.
    TripleFault {
        /// The vCPU and the address in the guest.
        what: String,
    },
    /// The VM was asked to stop.
    Stopped,
    /// The VM was snapshotted, and [`stop`](crate::control::SnapshotRequest::stop) was set.
    Snapshotted {
        /// Name of the snapshot.
        snapshot: String,
    },
}

//! Kinds of threads of a VM. A program that runs VMs can have each thread confine itself by its
//! kind before it does anything.

use std::sync::OnceLock;

/// The work of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a vCPU: enters the guest, and serves its accesses to ports and device registers.
    Vcpu,
    /// Answers held accesses to guest memory: maps and copies frames (copy-on-write).
    Memory,
    /// Drives the devices: disks, console, vsock streams.
    Devices,
    /// Waits for signals and keys of the user.
    Control,
    /// Carries out operations: builds machines, takes snapshots, rewinds, answers requests of the
    /// control socket and of the guest's agent.
    Operations,
}

impl ThreadKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Vcpu,
        Self::Memory,
        Self::Devices,
        Self::Control,
        Self::Operations,
    ];

    /// Name for people: `vcpu`, `memory`, `devices`, `control`, `operations`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Control => "control",
            Self::Operations => "operations",
        }
    }
}

static ON_START: OnceLock<fn(ThreadKind)> = OnceLock::new();

/// Has `hook` called at the start of each thread of a VM in this process, by that thread. The first
/// hook stays.
pub fn on_start(hook: fn(ThreadKind)) {
    let _ = ON_START.set(hook);
}

/// Tells that this thread begins its work.
pub(crate) fn begin(kind: ThreadKind) {
    if let Some(hook) = ON_START.get() {
        hook(kind);
    }
}

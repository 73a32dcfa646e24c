//! A guest whose memory is a private mapping of a copied checkpoint: the host's kernel copies what
//! it writes. That is how VMs are started from a memory file where there is no pool, and what
//! copy-on-write is compared with.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use nvvmm::{
    VmError,
    disk::DiskUser,
    machine::{Machine, MachineParts},
    memory::GuestRam,
    spec::files::OpenedFiles,
    sys::address_range::Sharing,
};
use nvvmm_devices::{ConsoleStreams, HostSocket};

use super::{bench_pool::BenchPool, console::Console, copied::CopiedCheckpoint};

/// A running machine without a pool. Dropping it ends it.
pub struct MappedGuest {
    machine: Machine,
    /// Talks to the guest.
    pub console: Console,
    /// After the machine, which writes to it.
    _ram: GuestRam,
}

impl MappedGuest {
    /// Starts it from a copied checkpoint.
    ///
    /// # Errors
    /// Whatever keeps a machine from running.
    pub fn start(pool: &BenchPool, checkpoint: &CopiedCheckpoint) -> Result<Self, VmError> {
        let saved = checkpoint.saved()?;
        let file = File::open(checkpoint.memory_path())
            .map_err(|e| VmError::io("open the guest's memory", &e))?;
        let ram = GuestRam::reserve(saved.spec.memory_bytes).map_err(failed)?;
        let size = usize::try_from(checkpoint.memory_bytes()).map_err(failed)?;
        ram.reservation()
            .map_file(0, size, file.as_fd(), 0, Sharing::Private)
            .map_err(|e| VmError::io("map the guest's memory", &e))?;
        let (name, dir) = {
            let guest = pool.guest_settings();
            (guest.name.clone(), guest.dir.to_owned())
        };
        let socket = |kind: &str| {
            let path = dir.join(format!("{name}.{kind}"));
            HostSocket::bind(&path)
                .map(|socket| (path, socket))
                .map_err(|e| VmError::io("make a socket", &e))
        };
        let (console_path, console) = socket("console")?;
        let (_, vsock) = socket("vsock")?;
        let mut streams = ConsoleStreams::default();
        streams.socket = Some(console);
        let files = OpenedFiles::open_restored(&saved.spec, &DiskUser::OF_FILES).map_err(failed)?;
        let machine = Machine::create(MachineParts {
            spec: &saved.spec,
            files: &files,
            memory: Arc::clone(ram.memory()),
            slots: ram.slots(),
            console: streams,
            vsock: Some(Arc::new(vsock)),
            free_pages: None,
            dirty_log: false,
        })
        .map_err(failed)?;
        machine.restore(&saved.machine).map_err(failed)?;
        machine.start(true).map_err(failed)?;
        Ok(Self {
            machine,
            console: Console::connect(&console_path)?,
            _ram: ram,
        })
    }
}

impl Drop for MappedGuest {
    fn drop(&mut self) {
        self.machine.stop();
    }
}

fn failed(error: impl std::fmt::Display) -> VmError {
    VmError::failed(error.to_string())
}

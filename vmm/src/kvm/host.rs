//! `/dev/kvm` and its capabilities.

use std::io;
use std::sync::{Arc, OnceLock};

use kvm_ioctls::{Cap, Kvm};

use super::{KvmError, Result};

/// The host's KVM, opened and found fit for nvvmm.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
}

static KEPT: OnceLock<Arc<Host>> = OnceLock::new();

/// Capabilities that nvvmm needs on every architecture, by their names in the KVM documentation.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncMmu, "KVM_CAP_SYNC_MMU"),
];

impl Host {
    /// Opens `/dev/kvm` and checks that it can run nvvmm's machines.
    ///
    /// # Errors
    /// [`KvmError::Open`] with a remedy, [`KvmError::Lacks`] naming the missing capability.
    pub fn open() -> Result<Host> {
        let kvm = Kvm::new().map_err(|errno| open_error(errno.into()))?;
        if kvm.get_api_version() != 12 {
            return Err(KvmError::Lacks("API version 12"));
        }
        let host = Host { kvm };
        host.check(&NEEDED)?;
        Ok(host)
    }

    /// Opens `/dev/kvm` once for all machines of this process to come, for a process that opens no
    /// file later.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub fn keep() -> Result<()> {
        if KEPT.get().is_none() {
            let _ = KEPT.set(Arc::new(Self::open()?));
        }
        Ok(())
    }

    /// The host that [`Host::keep`] opened, or one that is opened now.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub fn kept_or_opened() -> Result<Arc<Host>> {
        KEPT.get()
            .map_or_else(|| Self::open().map(Arc::new), |kept| Ok(Arc::clone(kept)))
    }

    /// Checks that all of `needed` are there.
    ///
    /// # Errors
    /// [`KvmError::Lacks`] naming the first that is missing.
    pub(crate) fn check(&self, needed: &[(Cap, &'static str)]) -> Result<()> {
        let missing = needed
            .iter()
            .find(|(cap, _)| !self.kvm.check_extension(*cap));
        missing.map_or(Ok(()), |(_, name)| Err(KvmError::Lacks(name)))
    }

    /// The opened device.
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The most vCPUs one VM may have here.
    pub fn vcpus_max(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

fn open_error(source: io::Error) -> KvmError {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => {
            "there is no KVM here: enable virtualisation in the firmware, load kvm_intel or \
             kvm_amd, or on a virtual machine ask for nested virtualisation"
        }
        io::ErrorKind::PermissionDenied => {
            "run as root or join the group that owns it (usually: sudo usermod -aG kvm $USER, then \
             log in again)"
        }
        _ => "see `dmesg | grep -i kvm` for what the kernel says",
    };
    KvmError::Open { remedy, source }
}

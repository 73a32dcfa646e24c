//! Things to tell the user about a VM that is started and may not do what is expected of it.

use std::path::Path;
use std::thread::available_parallelism;

use nvvmm::checkpoint::blob::SavedVm;
use nvvmm::vm::{KernelKind, VmSource, check_kernel};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{EngineKind, Pool};

use super::{doctor, output};

/// vCPUs of a VM for which the user asks for no number.
const VCPUS_USUAL: usize = 2;

/// Facts of a VM that is about to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    memory_bytes: u64,
    vcpus: usize,
    is_linux: bool,
}

/// Facts of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    pool_bytes: u64,
    /// A guest in this pool waits when it is full.
    waits_for_pool: bool,
    cpus: usize,
    is_software_kvm: bool,
}

/// The warnings about a VM of `source`. Whatever cannot be found out here is told when the VM is
/// built.
pub fn of(pool: &Pool, source: &VmSource) -> Vec<VmError> {
    let Some(wanted) = wanted(pool, source) else {
        return Vec::new();
    };
    let given = Given {
        pool_bytes: pool.size_bytes(),
        waits_for_pool: pool.medium().cow_engine() == EngineKind::Userfaultfd,
        cpus: available_parallelism().map_or(usize::MAX, usize::from),
        is_software_kvm: wanted.is_linux && doctor::is_software_kvm(),
    };
    warnings(wanted, given)
}

fn wanted(pool: &Pool, source: &VmSource) -> Option<Wanted> {
    let is_linux = |kernel: &Path| check_kernel(kernel) == Ok(KernelKind::Linux);
    match source {
        VmSource::Boot(spec) => Some(Wanted {
            memory_bytes: spec.memory_bytes,
            vcpus: spec.vcpus.into(),
            is_linux: spec.kernel.as_deref().is_some_and(is_linux),
        }),
        VmSource::Restore(restore) => {
            let entry = pool.find(&restore.snapshot).ok()?;
            let saved = SavedVm::decode(&pool.read_state(entry.id).ok()?).ok()?;
            Some(Wanted {
                memory_bytes: entry.memory_bytes,
                vcpus: saved.spec.vcpus.into(),
                is_linux: false,
            })
        }
    }
}

fn warnings(wanted: Wanted, given: Given) -> Vec<VmError> {
    let mut warnings = Vec::new();
    let mut warn = |message: String, remedy: &str| {
        warnings.push(VmError::new(ErrorKind::Refused, message).with_remedy(remedy));
    };
    if wanted.memory_bytes > given.pool_bytes {
        let then = match given.waits_for_pool {
            true => "the guest stands still when it has filled the pool",
            false => "its snapshots are refused when they have filled the pool",
        };
        warn(
            format!(
                "the guest has {} of memory, and the pool {}: {then}",
                output::size(wanted.memory_bytes),
                output::size(given.pool_bytes)
            ),
            "give the VM less --memory, or make the pool larger with 'nvvmm pool grow'",
        );
    }
    if wanted.vcpus > given.cpus.max(VCPUS_USUAL) {
        let cpus = match given.cpus {
            1 => "1 CPU".to_owned(),
            cpus => format!("{cpus} CPUs"),
        };
        warn(
            format!(
                "the guest has {} vCPUs, and this process may use {cpus}: they take turns",
                wanted.vcpus
            ),
            "give the VM fewer --cpus, if the guest is slow",
        );
    }
    if wanted.is_linux && given.is_software_kvm {
        warn(
            "the kernel is Linux, and /dev/kvm is a software KVM (no vmx or svm), which cannot \
             boot Linux as a rule: the console may stay empty"
                .to_owned(),
            "run Linux guests on a host with VMX or SVM ('nvvmm doctor' shows what this one has)",
        );
    }
    warnings
}

#[cfg(test)]
#[path = "start_warnings_test.rs"]
mod start_warnings_test;

//! Needs of every VM that a host can lack, looked at before anything is made for a VM.

use super::{
    VmError,
    error::{cow_error, machine_error},
};
use crate::{
    arch,
    cow::CowError,
    kvm::{Host, KvmError},
    machine::MachineError,
    sys::uffd::Uffd,
};

/// Checks that this process may use KVM, and that KVM has all that machines need.
///
/// # Errors
/// The error that the start of a VM would have.
pub fn check_kvm() -> Result<(), VmError> {
    let checked = Host::open().and_then(|host| arch::check_host(&host));
    checked.map_err(|error: KvmError| machine_error(MachineError::Kvm(error)))
}

/// Checks that this process may use userfaultfd, and that it can hold writes to shared memory.
///
/// # Errors
/// The error that the start of a VM would have.
pub fn check_userfaultfd() -> Result<(), VmError> {
    match Uffd::open() {
        Ok(_) => Ok(()),
        Err(error) => Err(cow_error(CowError::Uffd(error))),
    }
}

/// Checks all that every VM needs of the host.
///
/// # Errors
/// All that is missing, as one error.
pub fn check_host() -> Result<(), VmError> {
    let checks = [check_kvm(), check_userfaultfd()];
    VmError::all(checks.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

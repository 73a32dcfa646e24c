//! Checks before a VM is started. Nothing is made for a VM that cannot run, and all that is missing
//! is named at once.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nvvmm::control::RuntimeDir;
use nvvmm::vm::{VmSource, check_disk, check_kernel, check_kvm, check_machine, check_userfaultfd};
use nvvmm::{ErrorKind, VmError};

use super::args::StartArguments;
use super::privileges::{Account, as_user};
use super::{doctor, file_size, output, pool_path};

/// Open files that a VM process with one vCPU and no disk needs for certain: it has about 50, and
/// some fewer without the sandbox.
const OPEN_FILES_MIN: u64 = 40;

/// Treatment of a default pool that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolNeed {
    Made,
    Found,
}

/// The pool, made if it is the default one and there is none yet, once all is known to be there
/// that the VM needs.
///
/// # Errors
/// All that is missing, with remedies.
pub fn pool_for(
    start: &StartArguments,
    account: Option<&Account>,
    need: PoolNeed,
    source: &VmSource,
) -> Result<PathBuf, VmError> {
    let option = &start.pool;
    let found = as_user(account, || match need {
        PoolNeed::Made => pool_path::found_if_any(option),
        PoolNeed::Found => pool_path::found(option).map(Some),
    });
    let is_default = need == PoolNeed::Made && option.path().is_none();
    let (pool, place) = match found {
        Err(error) if is_default => (None, Err(error)),
        Err(error) => return Err(error),
        Ok(None) => (None, as_user(account, pool_path::check_default_place)),
        Ok(Some(pool)) => (Some(pool), Ok(())),
    };
    check_host(start, account, place, pool.as_deref(), source)?;
    check_files(source)?;
    match pool {
        Some(pool) => Ok(pool),
        None => as_user(account, || pool_path::found_or_made(option)),
    }
}

fn check_host(
    start: &StartArguments,
    account: Option<&Account>,
    place: Result<(), VmError>,
    pool: Option<&Path>,
    source: &VmSource,
) -> Result<(), VmError> {
    let runtime_dir = match account {
        // The user's own is made later.
        Some(_) => Ok(()),
        None => RuntimeDir::of_user().map(drop),
    };
    let of_doctor = [check_kvm(), check_userfaultfd(), runtime_dir];
    let own = [
        place,
        pool.map_or(Ok(()), |pool| check_pool(pool, account)),
        check_limits(pool, source),
    ];
    let mut errors: Vec<VmError> = of_doctor.into_iter().filter_map(Result::err).collect();
    if !errors.is_empty() {
        add_findings(&mut errors, doctor::missing(&start.pool));
    }
    errors.extend(own.into_iter().filter_map(Result::err));
    VmError::all(errors).map_or(Ok(()), Err)
}

/// Gives each error the exact remedy that `nvvmm doctor` has for it, and adds what else it finds.
fn add_findings(errors: &mut Vec<VmError>, findings: Vec<VmError>) {
    for finding in findings {
        match { errors.iter_mut() }.find(|error| error.message == finding.message) {
            Some(error) => error.remedy = finding.remedy,
            None => errors.push(finding),
        }
    }
}

fn check_pool(pool: &Path, account: Option<&Account>) -> Result<(), VmError> {
    account.map_or(Ok(()), |account| account.check_pool(pool))?;
    file_size::check_file("pool", pool)
}

/// The limits that the VM process would meet for certain.
fn check_limits(pool: Option<&Path>, source: &VmSource) -> Result<(), VmError> {
    let soft = |resource| match getrlimit(resource) {
        Ok((soft, _)) if soft != libc::RLIM_INFINITY => soft,
        // A limit that cannot be read stops nobody here.
        _ => u64::MAX,
    };
    let VmSource::Boot(spec) = source else {
        return refuse_below(soft(Resource::RLIMIT_NOFILE), OPEN_FILES_MIN);
    };
    let vcpus = u64::from(spec.vcpus);
    // A disk has its image, its interrupt, and a doorbell for each vCPU.
    let files = OPEN_FILES_MIN + vcpus - 1 + spec.disks().count() as u64 * (2 + vcpus);
    refuse_below(soft(Resource::RLIMIT_NOFILE), files)?;
    let pool_bytes = pool.and_then(|pool| Some(pool.metadata().ok()?.len()));
    let bytes = spec.memory_bytes.saturating_add(pool_bytes.unwrap_or(0));
    let limit = soft(Resource::RLIMIT_AS);
    if limit >= bytes {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Refused,
        format!(
            "the VM process needs {} of addresses for the guest's memory and the pool, and may \
             have {} (ulimit -v)",
            output::size(bytes),
            output::size(limit)
        ),
    )
    .with_remedy("raise the limit with 'ulimit -v unlimited'"))
}

fn refuse_below(limit: u64, files: u64) -> Result<(), VmError> {
    if limit >= files {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Refused,
        format!("this VM needs {files} open files, and may have {limit} (ulimit -n)"),
    )
    .with_remedy(format!(
        "raise the limit with 'ulimit -n {}'",
        (2 * files).next_power_of_two().max(1024)
    )))
}

/// The kernel is one, and disks can be used as they were given.
fn check_files(source: &VmSource) -> Result<(), VmError> {
    let (kernel, disks) = match source {
        VmSource::Boot(spec) => (spec.kernel.as_deref(), spec.disks().collect()),
        VmSource::Restore(restore) => (
            restore.boot.as_ref().map(|boot| boot.kernel.as_path()),
            restore.disks.iter().flatten().collect::<Vec<_>>(),
        ),
    };
    if let VmSource::Boot(spec) = source {
        check_machine(spec)?;
    }
    kernel.map_or(Ok(()), |kernel| check_kernel(kernel).map(drop))?;
    disks.into_iter().try_for_each(check_disk)
}

#[cfg(test)]
#[path = "start_checks_test.rs"]
mod start_checks_test;

//! Names of replicas: `web@replica-00000007`. A user can give no name with `@`.

use nvvmm::control::registry::check_vm_name;
use nvvmm::{Pool, VmError};

/// Digits of a number at least. Names sort by age as long as these suffice: 15 years at 5 s.
const DIGITS: usize = 8;

/// The names of the replicas of one VM.
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// Names for the VM.
    ///
    /// # Errors
    /// The VM's name is none.
    pub(super) fn new(vm: &str) -> Result<Self, VmError> {
        check_vm_name(vm)?;
        Ok(Self {
            prefix: format!("{vm}@replica-"),
        })
    }

    /// The replica with a number.
    pub(super) fn of(&self, number: u64) -> String {
        format!("{}{number:0DIGITS$}", self.prefix)
    }

    /// The number of a replica; none for another name.
    pub(super) fn number_of(&self, name: &str) -> Option<u64> {
        let number = name.strip_prefix(&self.prefix)?.parse().ok()?;
        (self.of(number) == name).then_some(number)
    }

    /// Removes the replicas that are in the pool, but one.
    ///
    /// # Errors
    /// Those of the pool.
    pub(super) fn remove_snapshots(&self, pool: &Pool, kept: Option<&str>) -> Result<(), VmError> {
        for entry in pool.entries()? {
            if self.number_of(&entry.name).is_some() && kept != Some(entry.name.as_str()) {
                pool.remove(&entry.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "names_test.rs"]
mod names_test;

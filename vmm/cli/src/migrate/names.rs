//! Names of the snapshots of a migration: `web.migrate-0123456789abcdef-3`.

use nvvmm::control::registry::check_vm_name;
use nvvmm::{ErrorKind, Pool, VmError};

/// Hexadecimal digits of the number of a migration.
const ID_DIGITS: usize = 16;

/// The names of one migration.
pub(super) struct Names {
    /// The VM.
    pub(super) vm: String,
    /// Number of the migration.
    pub(super) id: String,
    prefix: String,
}

impl Names {
    /// Names of a migration with this number.
    ///
    /// # Errors
    /// The VM's name is none, or the number.
    pub(super) fn new(vm: &str, id: &str) -> Result<Self, VmError> {
        check_vm_name(vm)?;
        if id.len() != ID_DIGITS || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(VmError::new(
                ErrorKind::Usage,
                "this is no number of a migration",
            ));
        }
        Ok(Self {
            vm: vm.to_owned(),
            id: id.to_owned(),
            prefix: format!("{vm}.migrate-{id}-"),
        })
    }

    /// The snapshot of a round.
    pub(super) fn of_round(&self, round: u32) -> String {
        format!("{}{round}", self.prefix)
    }

    /// True for a snapshot of this migration.
    pub(super) fn is_of_this(&self, snapshot: &str) -> bool {
        let round = snapshot.strip_prefix(&self.prefix);
        round.is_some_and(|round| round.parse::<u32>().is_ok_and(|n| n.to_string() == round))
    }

    /// Removes the snapshots of this migration but one, incomplete ones, too.
    ///
    /// # Errors
    /// Those of the pool.
    pub(super) fn remove_snapshots(&self, pool: &Pool, kept: Option<&str>) -> Result<(), VmError> {
        for entry in pool.entries()? {
            if self.is_of_this(&entry.name) && kept != Some(entry.name.as_str()) {
                pool.remove(&entry.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "names_test.rs"]
mod names_test;

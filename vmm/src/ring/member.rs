//! Checkpoints of a VM's ring in the pool.

use nvvmm_snapshot::{Pool, SnapshotId, SnapshotKind};

/// Separates the VM's name and the number. No other name may contain it.
const SEPARATOR: char = '@';

/// A checkpoint of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its number; the next checkpoint has this number and one.
    pub number: u64,
    /// Its name.
    pub name: String,
}

impl Member {
    /// Name of checkpoint `number` of a VM.
    pub fn name_of(vm: &str, number: u64) -> String {
        format!("{vm}{SEPARATOR}{number}")
    }

    /// The number in the name of a checkpoint of this VM. `None` for any other name.
    pub fn number_of(name: &str, vm: &str) -> Option<u64> {
        let digits = name.strip_prefix(vm)?.strip_prefix(SEPARATOR)?;
        let number = digits.parse().ok()?;
        (Self::name_of(vm, number) == name).then_some(number)
    }

    /// All checkpoints of the VM of that name, the oldest first, whichever process took them.
    ///
    /// # Errors
    /// Those of the pool.
    pub fn all(pool: &Pool, vm: &str) -> nvvmm_snapshot::Result<Vec<Member>> {
        let entries = pool.entries()?.into_iter();
        let vms = entries.filter(|entry| entry.kind == SnapshotKind::Vm);
        let members = vms.filter_map(|entry| {
            Some(Member {
                id: entry.id,
                number: Self::number_of(&entry.name, vm)?,
                name: entry.name,
            })
        });
        Ok(members.collect())
    }
}

/// True if only a ring may give this name.
pub fn is_member_name(name: &str) -> bool {
    name.contains(SEPARATOR)
}

#[cfg(test)]
#[path = "member_test.rs"]
mod member_test;

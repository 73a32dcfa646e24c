//! Tells a VM's own checkpoints from those of an earlier VM of the same name.

use super::Member;

/// The checkpoints of a VM's name that are the VM's own. Those of an earlier VM of that name are
/// not, and may be wanted after its crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnCheckpoints {
    /// None.
    #[default]
    None,
    /// Those with this number and higher ones.
    From(u64),
}

impl OwnCheckpoints {
    /// All that there are.
    pub const ALL: Self = Self::From(0);

    /// The checkpoints of a VM that came from this snapshot, if that is a checkpoint of the VM's
    /// name: it goes on with the ring.
    pub fn of_origin(snapshot: Option<&str>, vm: &str) -> Self {
        let number = snapshot.and_then(|name| Member::number_of(name, vm));
        number.map_or(Self::None, |_| Self::ALL)
    }

    /// True for a checkpoint with this number.
    pub fn has(self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::From(first) => number >= first,
        }
    }

    /// Those of an earlier VM, in their order.
    pub fn others(self, members: &[Member]) -> Vec<Member> {
        let others = members.iter().filter(|member| !self.has(member.number));
        others.cloned().collect()
    }
}

#[cfg(test)]
#[path = "own_test.rs"]
mod own_test;

//! The write that each frame must hold, recomputed from the commands.

use crate::VCPUS_MAX;
use crate::frame::{Kind, Stamp};
use crate::journal::{JournalView, WriteView};
use crate::order::{Order, Pattern};

/// The commands that the guest got: fill, churn and `write`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of vCPUs.
    pub vcpus: u64,
    /// First frame under test.
    pub first_gfn: u64,
    /// Filled frames.
    pub filled: u64,
    fill_seed: u64,
    churn_seed: u64,
    orders: [Order; VCPUS_MAX],
}

impl Plan {
    /// The plan that a journal describes.
    pub fn new(journal: &JournalView) -> Self {
        Self::from_parts(
            (journal.vcpus, journal.first_gfn, journal.filled),
            (journal.fill_seed, journal.churn_seed, journal.pattern),
        )
    }

    /// A plan from `(vcpus, first_gfn, filled)` and `(fill seed, churn seed, pattern)`; there are
    /// at least as many frames as vCPUs.
    pub fn from_parts(
        (vcpus, first_gfn, filled): (u64, u64, u64),
        (fill_seed, churn_seed, pattern): (u64, u64, Pattern),
    ) -> Self {
        let order = |vcpu: u64| {
            let len = (filled + vcpus - 1 - vcpu.min(vcpus - 1)) / vcpus;
            Order::new(pattern, churn_seed ^ vcpu, len.max(1), vcpus)
        };
        let orders = core::array::from_fn(|i| order(i as u64));
        Self {
            vcpus,
            first_gfn,
            filled,
            fill_seed,
            churn_seed,
            orders,
        }
    }

    /// The vCPU that writes frame `index`: neighbours, also across chunk borders, belong to
    /// different ones.
    pub const fn owner(&self, index: u64) -> u64 {
        index % self.vcpus
    }

    /// The frame (index in the filled memory) that `vcpu`'s churn write number `n` goes to.
    pub fn target(&self, vcpu: u64, n: u64) -> u64 {
        self.orders[vcpu as usize].at(n) * self.vcpus + vcpu
    }

    /// The last churn write to frame `index` among its owner's writes `0..n`.
    pub fn churned(&self, index: u64, n: u64) -> Option<u64> {
        self.orders[self.owner(index) as usize].last_before(index / self.vcpus, n)
    }

    /// The vCPU whose progress `vcpu`'s churn write number `n` records; itself if it is alone.
    pub const fn linked(&self, vcpu: u64, n: u64) -> u64 {
        if self.vcpus == 1 {
            vcpu
        } else {
            (vcpu + 1 + n % (self.vcpus - 1)) % self.vcpus
        }
    }

    /// The write that frame `index` holds after its owner's churn writes `0..n` and the given
    /// `write` commands.
    pub fn stamp(&self, index: u64, n: u64, writes: &[WriteView]) -> Stamp {
        let owner = self.owner(index);
        let churned = self.churned(index, n);
        if let Some(entry) = writes
            .iter()
            .rposition(|w| w.overrides(index, owner, churned))
        {
            return self.write_stamp(index, entry as u64 + 1);
        }
        match churned {
            Some(k) => self.churn_stamp(index, k),
            None => self.fill_stamp(index),
        }
    }

    /// The stamp of `fill`.
    pub const fn fill_stamp(&self, index: u64) -> Stamp {
        self.stamp_of(index, Kind::Fill, 0, self.fill_seed)
    }

    /// The stamp of the owner's churn write number `n`.
    pub const fn churn_stamp(&self, index: u64, n: u64) -> Stamp {
        self.stamp_of(index, Kind::Churn, n + 1, self.churn_seed)
    }

    /// The stamp of the `write` command number `number`, counted from 1.
    pub const fn write_stamp(&self, index: u64, number: u64) -> Stamp {
        self.stamp_of(index, Kind::Write, number, self.fill_seed)
    }

    const fn stamp_of(&self, index: u64, kind: Kind, seq: u64, seed: u64) -> Stamp {
        Stamp {
            gfn: self.first_gfn + index,
            writer: self.owner(index),
            vcpus: self.vcpus,
            kind,
            seq,
            seed,
        }
    }
}

//! A snapshot that the caller can still withdraw.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nvvmm_snapshot::Reservation;

use crate::sys::peer::Caller;

/// Request for a snapshot, with the blocks that are reserved for it.
///
/// Until frames are shared, a snapshot may have to wait for a vCPU or a device that itself waits
/// for space. The caller need not wait with it, and the blocks reserved for the snapshot may be the
/// ones that are missing. So the request can be withdrawn, and the blocks go back with it.
#[derive(Default)]
pub struct Pending {
    stage: Mutex<Stage>,
    caller: Caller,
}

#[derive(Default)]
enum Stage {
    #[default]
    Asked,
    Reserved(Reservation),
    Begun,
    Withdrawn,
}

impl Pending {
    /// A request of this caller. It is withdrawn when the caller goes.
    pub fn of(caller: Caller) -> Self {
        Self {
            caller,
            ..Self::default()
        }
    }

    /// True when nobody waits for the snapshot any more.
    pub fn caller_is_gone(&self) -> bool {
        self.caller.is_gone()
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the blocks that are reserved for the commit. Returns false when the snapshot was
    /// withdrawn.
    pub fn keep(&self, reservation: Reservation) -> bool {
        let mut stage = self.stage();
        let wanted = !matches!(*stage, Stage::Withdrawn);
        if wanted {
            *stage = Stage::Reserved(reservation);
        }
        wanted
    }

    /// Returns the reserved blocks. From here on nothing waits for the guest, and the snapshot
    /// cannot be withdrawn. `None` when it was withdrawn, when nothing is reserved for it, or when
    /// its caller is gone.
    pub fn begin(&self) -> Option<Reservation> {
        let mut stage = self.stage();
        if self.caller.is_gone() {
            *stage = Stage::Withdrawn;
        }
        match std::mem::replace(&mut *stage, Stage::Begun) {
            Stage::Reserved(reservation) => Some(reservation),
            other => {
                *stage = other;
                None
            }
        }
    }

    /// Withdraws the snapshot. Returns false when it is too late for that.
    pub fn withdraw(&self) -> bool {
        let mut stage = self.stage();
        let in_time = !matches!(*stage, Stage::Begun);
        if in_time {
            *stage = Stage::Withdrawn;
        }
        in_time
    }

    /// True if the snapshot was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        matches!(*self.stage(), Stage::Withdrawn)
    }
}

#[cfg(test)]
#[path = "pending_test.rs"]
mod pending_test;

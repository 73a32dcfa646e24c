//! A snapshot that can still be withdrawn by whoever asked for it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nvvmm_snapshot::Reservation;

/// From the request until frames are shared, a snapshot may have to wait for a vCPU or a device
/// that waits for space itself. Whoever asked need not wait with it, and the blocks reserved for
/// the snapshot must not be what is missing: they go back with the request.
#[derive(Default)]
pub struct Pending(Mutex<Stage>);

#[derive(Default)]
enum Stage {
    #[default]
    Asked,
    Reserved(Reservation),
    Begun,
    Withdrawn,
}

impl Pending {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is reserved for the commit. False when the snapshot was withdrawn.
    pub fn keep(&self, reservation: Reservation) -> bool {
        let mut stage = self.stage();
        let wanted = !matches!(*stage, Stage::Withdrawn);
        if wanted {
            *stage = Stage::Reserved(reservation);
        }
        wanted
    }

    /// From here on nothing waits for the guest, and the snapshot cannot be withdrawn. `None` when
    /// it was, or when nothing is reserved for it.
    pub fn begin(&self) -> Option<Reservation> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Begun) {
            Stage::Reserved(reservation) => Some(reservation),
            other => {
                *stage = other;
                None
            }
        }
    }

    /// Gives the snapshot up; false when it is too late for that.
    pub fn withdraw(&self) -> bool {
        let mut stage = self.stage();
        let in_time = !matches!(*stage, Stage::Begun);
        if in_time {
            *stage = Stage::Withdrawn;
        }
        in_time
    }

    /// It was given up.
    pub fn is_withdrawn(&self) -> bool {
        matches!(*self.stage(), Stage::Withdrawn)
    }
}

#[cfg(test)]
#[path = "pending_test.rs"]
mod pending_test;

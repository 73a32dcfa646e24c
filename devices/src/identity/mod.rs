//! The identity of a guest among its copies: the generation identifier (VMGenID, Microsoft's
//! "Virtual Machine Generation ID") and the VMClock page, both in guest memory.
//!
//! Both get new values before a vCPU runs that was restored or rewound. A snapshot alone changes
//! nothing. The values come from the machine, which has them from the host's kernel; the notice of
//! them is an event of the power registers ([`crate::AcpiPower::tell_restored`]).

mod clock_page;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

use crate::lifecycle::{LifecycleError, SavedDevice};
use clock_page::ClockPage;

/// Bytes of a generation identifier.
pub const GENERATION_ID_BYTES: u64 = 16;
/// Bytes of the VMClock page.
pub const CLOCK_PAGE_BYTES: u64 = 0x1000;

const KIND: &str = "identity";
const INSTANCE: &str = "identity0";
const VERSION: u16 = 1;

/// Addresses of the values in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityPlaces {
    /// Guest physical address of the generation identifier.
    pub generation_id: u64,
    /// Guest physical address of the VMClock page.
    pub clock_page: u64,
}

/// Values of one generation: random numbers of the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// The generation identifier.
    pub id: [u8; GENERATION_ID_BYTES as usize],
    /// VMClock's `disruption_marker`.
    pub disruption: u64,
    /// VMClock's `vm_generation_counter`.
    pub counter: u64,
}

impl Generation {
    /// Random bytes that one takes.
    pub const RANDOM_BYTES: usize = 32;

    /// The generation of these random bytes.
    pub fn from_random(bytes: [u8; Self::RANDOM_BYTES]) -> Self {
        let number = |at: usize| {
            let eight = bytes[at..].iter().take(8);
            eight.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            id: std::array::from_fn(|at| bytes[at]),
            disruption: number(16),
            counter: number(24),
        }
    }
}

/// Saved state of [`Identity`]. The values themselves are in guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStateV1 {
    /// VMClock's `seq_count`.
    pub sequence: u32,
}

/// The values, if the guest has a place for them: a guest that was booted by an older nvvmm has
/// not, and its memory is left alone.
#[derive(Debug)]
pub struct Identity {
    places: IdentityPlaces,
    sequence: Option<u32>,
}

impl Identity {
    /// Stands for a guest without a place for the values.
    pub fn absent(places: IdentityPlaces) -> Self {
        Self {
            places,
            sequence: None,
        }
    }

    /// The guest has the values.
    pub fn is_present(&self) -> bool {
        self.sequence.is_some()
    }

    /// Writes the first values, for a guest that is about to boot.
    ///
    /// # Errors
    /// There is no memory at a place.
    pub fn begin<M: GuestMemory>(
        &mut self,
        memory: &M,
        generation: &Generation,
    ) -> Result<(), GuestMemoryError> {
        self.sequence = Some(0);
        self.renew(memory, generation)
    }

    /// Writes new values, if the guest has a place for them. No vCPU may run.
    ///
    /// # Errors
    /// There is no memory at a place.
    pub fn renew<M: GuestMemory>(
        &mut self,
        memory: &M,
        generation: &Generation,
    ) -> Result<(), GuestMemoryError> {
        let Some(sequence) = &mut self.sequence else {
            return Ok(());
        };
        // An even number: no update is in progress. A guest that stood still while it read the
        // page sees another number, and reads anew.
        *sequence = (*sequence & !1).wrapping_add(2);
        let page = ClockPage::new(*sequence, generation);
        memory.write_slice(&page.bytes(), GuestAddress(self.places.clock_page))?;
        memory.write_slice(&generation.id, GuestAddress(self.places.generation_id))
    }

    /// The state, if the guest has the values.
    ///
    /// # Errors
    /// [`LifecycleError::Malformed`] when it cannot be encoded.
    pub fn save(&self) -> Result<Option<SavedDevice>, LifecycleError> {
        let state = self.sequence.map(|sequence| IdentityStateV1 { sequence });
        state
            .map(|state| SavedDevice::encode(KIND, VERSION, INSTANCE, &state))
            .transpose()
    }

    /// True for the state of an [`Identity`].
    pub fn is_state(saved: &SavedDevice) -> bool {
        (saved.kind.as_str(), saved.instance.as_str()) == (KIND, INSTANCE)
    }

    /// Takes over a state. None: the guest has no place for the values.
    ///
    /// # Errors
    /// The state is damaged, or of another version.
    pub fn restore(&mut self, saved: Option<&SavedDevice>) -> Result<(), LifecycleError> {
        let state = saved.map(|saved| saved.decode::<IdentityStateV1>(KIND, VERSION, INSTANCE));
        self.sequence = state.transpose()?.map(|state| state.sequence);
        Ok(())
    }
}

#[cfg(test)]
#[path = "identity_test.rs"]
mod identity_test;

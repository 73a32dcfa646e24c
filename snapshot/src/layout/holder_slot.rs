//! A slot of the holder table: who uses the pool, and which snapshots it needs.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::name::NAME_BYTES_MAX;
use crate::number::SnapshotId;

/// Bytes of a slot.
pub(crate) const HOLDER_SLOT_BYTES: usize = 256;
/// Snapshots that a holder can pin.
pub(crate) const PINS_MAX: usize = 12;
/// Those that it can pin but for snapshots of its own VM: who has one of these can let go of all
/// others.
pub(crate) const PINS_MAX_OF_OTHERS: usize = PINS_MAX - 1;
/// `state` of a slot in use.
pub(crate) const SLOT_USED: u32 = 1;

/// A holder slot as it is in the table. A zeroed slot is free.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HolderSlotV1 {
    pub(crate) state: U32,
    pub(crate) pid: U32,
    pub(crate) start_time_ticks: U64,
    pub(crate) pins: [U64; PINS_MAX],
    pub(crate) leases: U32,
    pub(crate) blocks_in_use: U32,
    pub(crate) name_bytes: U32,
    pub(crate) reserved0: U32,
    pub(crate) name: [u8; NAME_BYTES_MAX],
}

const _: () = assert!(size_of::<HolderSlotV1>() == HOLDER_SLOT_BYTES);
const _: () = assert!(offset_of!(HolderSlotV1, pins).is_multiple_of(8));

/// Offset of `leases` in a slot.
pub(crate) const LEASES_OFFSET: u64 = offset_of!(HolderSlotV1, leases) as u64;
/// Offset of `blocks_in_use` in a slot.
pub(crate) const BLOCKS_IN_USE_OFFSET: u64 = offset_of!(HolderSlotV1, blocks_in_use) as u64;
/// Offset of the name, with its length before it, in a slot.
pub(crate) const NAME_OFFSET: usize = offset_of!(HolderSlotV1, name_bytes);
/// Offset of the pins in a slot.
pub(crate) const PINS_OFFSET: u64 = offset_of!(HolderSlotV1, pins) as u64;

impl HolderSlotV1 {
    /// A slot in use by a process.
    pub(crate) fn used(pid: u32, start_time_ticks: u64, name: &str) -> HolderSlotV1 {
        let mut slot = HolderSlotV1::new_zeroed();
        let length = name.len().min(NAME_BYTES_MAX);
        slot.state = SLOT_USED.into();
        slot.pid = pid.into();
        slot.start_time_ticks = start_time_ticks.into();
        slot.name_bytes = (length as u32).into();
        slot.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        slot
    }

    /// The holder's name.
    pub(crate) fn name(&self) -> String {
        let length = (self.name_bytes.get() as usize).min(NAME_BYTES_MAX);
        String::from_utf8_lossy(&self.name[..length]).into_owned()
    }

    /// The snapshots that the holder pins.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.pins.iter().filter_map(|id| SnapshotId::new(id.get()))
    }
}

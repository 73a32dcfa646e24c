//! The VMClock page (Linux, `include/uapi/linux/vmclock-abi.h`; UAPI.13). nvvmm tells the guest of
//! disruptions and generations by it, and not of time: counter and status are unknown.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CLOCK_PAGE_BYTES, Generation};

/// "VCLK".
const MAGIC: u32 = 0x4b4c_4356;
const VERSION: u16 = 1;
/// `VMCLOCK_COUNTER_INVALID`: the page says nothing of the TSC.
const NO_COUNTER: u8 = 0xff;
/// `VMCLOCK_STATUS_UNKNOWN`.
const STATUS_UNKNOWN: u8 = 0;
/// `VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT`.
const HAS_GENERATION: u64 = 1 << 8;
/// `VMCLOCK_FLAG_NOTIFICATION_PRESENT`: each new even `sequence` comes with an ACPI notification.
const NOTIFIES: u64 = 1 << 9;

/// `struct vmclock_abi`. The rest of the page is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ClockPage {
    magic: U32,
    size: U32,
    version: U16,
    counter_id: u8,
    time_type: u8,
    sequence: U32,
    disruption: U64,
    flags: U64,
    pad: [u8; 2],
    status: u8,
    leap_second_hint: u8,
    tai_offset_s: U16,
    leap_indicator: u8,
    counter_period_shift: u8,
    /// Counter, its period and their errors; time and its errors. None of them is known.
    unknown: [U64; 8],
    generation: U64,
}

const _: () = {
    assert!(size_of::<ClockPage>() == 112);
    assert!(std::mem::offset_of!(ClockPage, status) == 34);
    assert!(std::mem::offset_of!(ClockPage, generation) == 104);
};

impl ClockPage {
    pub(super) fn new(sequence: u32, generation: &Generation) -> Self {
        Self {
            magic: MAGIC.into(),
            size: (CLOCK_PAGE_BYTES as u32).into(),
            version: VERSION.into(),
            counter_id: NO_COUNTER,
            time_type: 0,
            sequence: sequence.into(),
            disruption: generation.disruption.into(),
            flags: (HAS_GENERATION | NOTIFIES).into(),
            pad: [0; 2],
            status: STATUS_UNKNOWN,
            leap_second_hint: 0,
            tai_offset_s: U16::ZERO,
            leap_indicator: 0,
            counter_period_shift: 0,
            unknown: [U64::ZERO; 8],
            generation: generation.counter.into(),
        }
    }

    pub(super) fn bytes(&self) -> [u8; size_of::<Self>()] {
        zerocopy::transmute!(*self)
    }
}

use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::{PvclockV1, tsc_at};
use crate::memory::GuestRam;

const PAGE: u64 = 0x5000;
const KHZ: u32 = 2_000_000;

fn ram_with(page: PvclockV1) -> GuestRam {
    let ram = GuestRam::reserve(2 << 20).unwrap();
    ram.memory()
        .write_slice(page.as_bytes(), GuestAddress(PAGE))
        .unwrap();
    ram
}

fn example() -> PvclockV1 {
    PvclockV1 {
        version: 4,
        tsc_timestamp: 10_000,
        system_time_ns: 1_000_000,
        ..Default::default()
    }
}

#[test]
fn clock_and_tsc_go_at_the_tscs_rate_in_both_directions() {
    let ram = ram_with(example());
    let at = |clock_ns| tsc_at(ram.memory(), PAGE | 1, clock_ns, KHZ);
    assert_eq!(at(1_000_000), Some(10_000));
    assert_eq!(
        at(1_000_500),
        Some(11_000),
        "500 ns are 1000 ticks at 2 GHz"
    );
    assert_eq!(at(999_000), Some(8_000));
}

#[test]
fn a_guest_without_kvmclock_has_no_answer() {
    let ram = ram_with(example());
    assert_eq!(
        tsc_at(ram.memory(), PAGE, 1_000_000, KHZ),
        None,
        "not enabled"
    );
    assert_eq!(
        tsc_at(ram.memory(), (4 << 20) | 1, 1_000_000, KHZ),
        None,
        "not in RAM"
    );
    assert_eq!(
        tsc_at(ram.memory(), PAGE | 1, 0, KHZ),
        None,
        "before the TSC began"
    );
    for version in [0, 5] {
        let ram = ram_with(PvclockV1 {
            version,
            ..example()
        });
        assert_eq!(
            tsc_at(ram.memory(), PAGE | 1, 1_000_000, KHZ),
            None,
            "version {version}"
        );
    }
}

use super::*;

const MIB: u64 = (1 << 20) / BLOCK_SIZE_BYTES;

#[test]
fn the_reserve_is_a_sixteenth_at_least_64_mib_and_at_most_a_quarter() {
    assert_eq!(reserve_of(16 * MIB), 4 * MIB);
    assert_eq!(reserve_of(256 * MIB), 64 * MIB);
    assert_eq!(reserve_of(512 * MIB), 64 * MIB);
    assert_eq!(reserve_of(4096 * MIB), 256 * MIB);
}

//! Snapshots as files: ordinary tools see the guest's data.

mod core;
mod mount;

use nvvmm_bare_metal::Memory;
use nvvmm_tests::Vm;

/// Guest memory in one piece.
struct Bytes(Vec<u8>);

impl Memory for Bytes {
    fn word(&self, gpa: u64) -> u64 {
        let word = self.0[gpa as usize..].first_chunk().unwrap();
        u64::from_le_bytes(*word)
    }
}

/// The number behind `key=` in an answer of the guest.
fn number(answer: &str, key: &str) -> u64 {
    let mut words = answer.split_whitespace();
    let found = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

/// Number of the first frame under test, and count of these frames.
fn frames_under_test(vm: &mut Vm<'_>) -> (u64, u64) {
    let stat = vm.ask("stat");
    (number(&stat, "first"), number(&stat, "frames"))
}

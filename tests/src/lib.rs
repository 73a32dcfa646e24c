//! Parts that all whole-system tests use: an nvvmm installation (runtime directory and pool), VMs,
//! and their consoles.
//!
//! The environment names the programs and images that they use. `scripts/test.sh` sets these
//! variables: `NVVMM_BIN`, `NVVMM_DEV_BIN`, `NVVMM_BAREMETAL_GUEST`, `NVVMM_GUEST_KERNEL`,
//! `NVVMM_GUEST_INITRAMFS`, `NVVMM_GUEST_PROGRAMS`. `scripts/on-medium.sh` sets the media of pools.

pub mod agent;
mod console;
mod faulty_server;
pub mod flushes;
mod host;
pub mod host_clock;
mod medium;
pub mod schema;
mod snapshot_memory;
mod vm;
pub mod witness;

use nvvmm_test_profile::sized;

pub use console::Console;
pub use faulty_server::{Faults, FaultyServer};
pub use host::{Host, Outcome};
pub use medium::{Engine, Medium};
pub use snapshot_memory::SnapshotMemory;
pub use vm::{Vm, wait_gone};

/// Path of a program or an image that a test needs. The test fails and names the variable if it is
/// not set.
pub fn required(variable: &str) -> std::path::PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run these tests by scripts/test.sh"))
        .into()
}

/// Repetitions of a random test: `usual` in a nightly run, fewer in the gate. Few in the nested
/// harness, where one repetition takes twenty times as long.
pub fn repetitions(usual: u32) -> u32 {
    let percent = if is_nested() { 5 } else { sized(25, 100) };
    (usual * percent).div_ceil(100).max(1)
}

/// True if the host is emulated (scripts/nested.sh).
pub fn is_nested() -> bool {
    std::env::var_os("NVVMM_IN_NESTED").is_some()
}

/// Random numbers for test patterns. They are repeatable: each test prints its seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers from the seed in `NVVMM_TEST_SEED`, or from the clock. Prints the seed.
    pub fn seeded(test: &str) -> Self {
        let seed = nvvmm_test_profile::seed();
        println!("{test}: {}={seed}", nvvmm_test_profile::SEED_VARIABLE);
        Self(seed | 1)
    }

    /// A separate sequence of numbers for a thread. It follows from this one.
    pub fn another(&mut self) -> Self {
        Self((self.below(u64::from(u32::MAX)) << 32 | self.below(u64::from(u32::MAX))) | 1)
    }

    /// The next number below `limit` (xorshift64*).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    /// Sleeps a random time below `limit_ms`.
    pub fn pause(&mut self, limit_ms: u64) {
        std::thread::sleep(std::time::Duration::from_micros(
            self.below(limit_ms * 1000),
        ));
    }
}

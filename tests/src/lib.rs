//! What whole-system tests share: an nvvmm of their own (runtime directory, pool), VMs, and their
//! consoles.
//!
//! The environment says where things are (`scripts/test.sh` sets it): `NVVMM_BIN`,
//! `NVVMM_FAULT_BIN`, `NVVMM_BAREMETAL_GUEST`, `NVVMM_GUEST_KERNEL`, `NVVMM_GUEST_INITRAMFS`,
//! `NVVMM_GUEST_PROGRAMS`, and the medium of pools (`scripts/on-medium.sh`).

pub mod agent;
mod console;
mod host;
mod medium;
mod snapshot_memory;
mod vm;
pub mod witness;

pub use console::Console;
pub use host::{Host, Outcome};
pub use medium::{Engine, Medium};
pub use snapshot_memory::SnapshotMemory;
pub use vm::{Vm, wait_gone};

/// What a test works with; a missing piece is an error that names the variable.
pub fn required(variable: &str) -> std::path::PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run these tests by scripts/test.sh"))
        .into()
}

/// How often a test does what it repeats: `usual` times, or the part of it that
/// `NVVMM_TEST_PERCENT` leaves on a slow host.
pub fn repetitions(usual: u32) -> u32 {
    let percent = std::env::var("NVVMM_TEST_PERCENT").map_or(100, |text| {
        text.parse().expect("NVVMM_TEST_PERCENT is a number")
    });
    (usual * percent).div_ceil(100).max(1)
}

/// Numbers for test patterns: repeatable, and the seed is printed where it is chosen.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From `NVVMM_TEST_SEED`, or the clock; printed, so that a failure can be repeated.
    pub fn seeded(test: &str) -> Self {
        let seed = match std::env::var("NVVMM_TEST_SEED") {
            Ok(text) => text.parse().expect("NVVMM_TEST_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH
                .elapsed()
                .expect("the clock is after 1970")
                .as_nanos() as u64,
        };
        println!("{test}: NVVMM_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// Numbers of their own for a thread, which follow from these.
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

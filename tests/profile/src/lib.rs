//! Size of a run of the tests: the one switch that all tests read. And what a host may lack.
//!
//! `NVVMM_TEST_PROFILE=gate` is the run before each merge, in minutes; it is the default.
//! `NVVMM_TEST_PROFILE=nightly` is everything. `scripts/test.sh` sets it.
//! `NVVMM_TEST_SEED` repeats a random run; each prints its seed.

mod passt;

use std::time::UNIX_EPOCH;

pub use passt::has_passt;

/// The variable that names the profile.
pub const PROFILE_VARIABLE: &str = "NVVMM_TEST_PROFILE";
/// The variable that repeats a random run.
pub const SEED_VARIABLE: &str = "NVVMM_TEST_SEED";

/// A size of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Minutes: before each merge.
    Gate,
    /// Hours: each night, and by hand.
    Nightly,
}

impl Profile {
    /// The profile that the environment names.
    ///
    /// # Panics
    /// On a name that is none.
    pub fn chosen() -> Self {
        match std::env::var(PROFILE_VARIABLE) {
            Ok(name) => Self::named(&name)
                .unwrap_or_else(|| panic!("{PROFILE_VARIABLE}={name} is not gate or nightly")),
            Err(_) => Self::Gate,
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "gate" => Some(Self::Gate),
            "nightly" => Some(Self::Nightly),
            _ => None,
        }
    }
}

/// The size of this run: `gate` or `nightly`.
pub fn sized<T>(gate: T, nightly: T) -> T {
    match Profile::chosen() {
        Profile::Gate => gate,
        Profile::Nightly => nightly,
    }
}

/// Cases of a property test: `PROPTEST_CASES`, which is proptest's own variable, or the size of
/// this run.
///
/// # Panics
/// Where `PROPTEST_CASES` is not a number.
pub fn cases(gate: u32, nightly: u32) -> u32 {
    number("PROPTEST_CASES").map_or_else(
        || sized(gate, nightly),
        |cases| u32::try_from(cases).expect("PROPTEST_CASES is below 2^32"),
    )
}

/// The seed of a random test: `NVVMM_TEST_SEED`, or the clock's nanoseconds. The test prints it.
///
/// # Panics
/// Where `NVVMM_TEST_SEED` is not a number.
pub fn seed() -> u64 {
    let clock = || {
        UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_nanos() as u64)
    };
    number(SEED_VARIABLE).unwrap_or_else(clock)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_profiles_have_names() {
        assert_eq!(Profile::named("gate"), Some(Profile::Gate));
        assert_eq!(Profile::named("nightly"), Some(Profile::Nightly));
        assert_eq!(Profile::named("whole"), None);
    }
}

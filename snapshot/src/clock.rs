//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day in nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

//! A balloon, and the memory behind it.

use std::sync::Arc;

use nvvmm_devices::virtio::{Balloon, BalloonHost, FreePages, FreeRange};

/// Most bytes, and ranges, that one request may give back.
const RELEASED_BYTES_MAX: u64 = 256 << 20;
const RANGES_MAX: usize = 1024;

/// Memory that stays as it is.
struct Kept;

impl FreePages for Kept {
    /// The RAM of the guest has eight units.
    fn unit_bytes(&self) -> u64 {
        0x4000
    }

    fn release(&self, ranges: &[FreeRange]) -> u64 {
        let bytes: u64 = ranges.iter().map(|range| range.len_bytes).sum();
        assert!(bytes <= RELEASED_BYTES_MAX, "{bytes} bytes of one request");
        assert!(!ranges.is_empty() && ranges.len() <= RANGES_MAX);
        bytes
    }
}

pub(super) fn device() -> Balloon {
    let host = BalloonHost::new().expect("an eventfd");
    Balloon::new(Arc::new(Kept), Arc::new(host))
}

//! Statistics of the guest's memory (Virtio 1.2 section 5.5.6.3).

/// Bytes of one statistic: its tag, and its value behind that without a gap.
const ENTRY_BYTES: usize = 10;
/// Most statistics that are looked at. Linux has 16 kinds.
const ENTRIES_MAX: usize = 32;

/// Most bytes of a report that are looked at.
pub(super) const REPORT_BYTES_MAX: usize = ENTRY_BYTES * ENTRIES_MAX;

const VIRTIO_BALLOON_S_MEMFREE: u16 = 4;
const VIRTIO_BALLOON_S_MEMTOT: u16 = 5;
const VIRTIO_BALLOON_S_AVAIL: u16 = 6;
const VIRTIO_BALLOON_S_CACHES: u16 = 7;

/// Memory as the guest's kernel counts it, in bytes. `None` where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestMemoryStatistics {
    /// Memory that nothing uses.
    pub free_bytes: Option<u64>,
    /// Memory that programs can get without swapping, as the kernel estimates it.
    pub available_bytes: Option<u64>,
    /// Memory of the page cache.
    pub cache_bytes: Option<u64>,
    /// All memory that the kernel manages.
    pub total_bytes: Option<u64>,
}

impl GuestMemoryStatistics {
    /// Reads a report. Passes over what it does not know. The last of several values counts.
    pub(super) fn read(report: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in report.as_chunks::<ENTRY_BYTES>().0 {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            let mut value = [0; 8];
            value.copy_from_slice(&entry[2..]);
            let field = match tag {
                VIRTIO_BALLOON_S_MEMFREE => &mut statistics.free_bytes,
                VIRTIO_BALLOON_S_MEMTOT => &mut statistics.total_bytes,
                VIRTIO_BALLOON_S_AVAIL => &mut statistics.available_bytes,
                VIRTIO_BALLOON_S_CACHES => &mut statistics.cache_bytes,
                _ => continue,
            };
            // A kernel that does not know a value gives the largest number.
            *field = Some(u64::from_le_bytes(value)).filter(|value| *value != u64::MAX);
        }
        statistics
    }
}

//! Features and configuration space of a disk (Virtio 1.2 sections 5.2.3 and 5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::backend::{DiskBackend, SECTOR_BYTES};

/// Descriptors of each queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Data buffers of one request: a chain has room for the header and the status beside them.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges of one discard.
pub(super) const DISCARD_RANGES_MAX: u32 = 16;
/// Ranges of one write-zeroes.
pub(super) const ZEROES_RANGES_MAX: u32 = 1;
/// `struct virtio_blk_config`, up to the fields for secure erase.
pub(super) const CONFIG_BYTES: usize = 60;

/// Features that a disk offers. They depend on nothing but its mode: a snapshot of a disk can be
/// restored with any other storage.
pub(super) fn features(disk: &impl DiskBackend) -> u64 {
    let always = [
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
    ];
    let read_only = u64::from(disk.is_read_only()) << VIRTIO_BLK_F_RO;
    always.iter().fold(read_only, |all, bit| all | 1 << bit)
}

/// The configuration space.
pub(super) fn fields(disk: &impl DiskBackend, queues: u16) -> [u8; CONFIG_BYTES] {
    let limits = disk.limits();
    let sectors = |bytes: u32| bytes / SECTOR_BYTES as u32;
    let block_sectors = sectors(limits.block_bytes).max(1);
    let mut space = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        space[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    // capacity, seg_max, blk_size
    put(0, &(disk.size_bytes() / SECTOR_BYTES).to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    put(20, &(SECTOR_BYTES as u32).to_le_bytes());
    // topology: physical_block_exp, min_io_size
    put(24, &[block_sectors.ilog2() as u8]);
    let min_io = u16::try_from(block_sectors).unwrap_or(u16::MAX);
    put(26, &min_io.to_le_bytes());
    // num_queues
    put(34, &queues.to_le_bytes());
    // max_discard_sectors, max_discard_seg, discard_sector_alignment
    put(36, &sectors(limits.discard_bytes_max).to_le_bytes());
    put(40, &DISCARD_RANGES_MAX.to_le_bytes());
    put(44, &block_sectors.to_le_bytes());
    // max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
    put(48, &sectors(limits.zeroes_bytes_max).to_le_bytes());
    put(52, &ZEROES_RANGES_MAX.to_le_bytes());
    put(56, &[1]);
    space
}

//! Features and the configuration space of a card (Virtio 1.2 sections 5.1.3 and 5.1.4).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

use super::backend::Offloads;

/// Length of the fields: MAC, status, pairs, MTU.
pub(super) const CONFIG_BYTES: usize = 12;
/// Bytes of the status.
pub(super) const STATUS: std::ops::Range<u64> = 6..8;

/// Features of a card.
pub(super) fn features(offloads: Offloads, pairs: usize) -> u64 {
    let all = [
        VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_MTU,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_CTRL_RX,
        VIRTIO_NET_F_GUEST_ANNOUNCE,
    ];
    let some = (pairs > 1).then_some(VIRTIO_NET_F_MQ);
    let own = { all.into_iter().chain(some) }.fold(0, |all, bit| all | 1_u64 << bit);
    own | offloads.features()
}

/// The fields of a card.
pub(super) fn fields(mac: [u8; 6], status: u16, pairs: usize, mtu: u16) -> [u8; CONFIG_BYTES] {
    let mut fields = [0; CONFIG_BYTES];
    fields[..6].copy_from_slice(&mac);
    fields[6..8].copy_from_slice(&status.to_le_bytes());
    fields[8..10].copy_from_slice(&(pairs as u16).to_le_bytes());
    fields[10..12].copy_from_slice(&mtu.to_le_bytes());
    fields
}

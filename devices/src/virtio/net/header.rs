//! The header of a packet, `virtio_net_hdr_v1` (Virtio 1.2 section 5.1.6).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};

use super::backend::{Accepted, HEADER_BYTES};

/// Offset of the number of chains that a packet is in, in bytes.
pub(super) const NUM_BUFFERS: usize = 10;

/// Fields that say what a frame lacks.
#[derive(Clone, Copy, Debug)]
struct Lacks {
    checksum: bool,
    gso: u32,
    gso_bytes: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Lacks {
    fn of(packet: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([packet[at], packet[at + 1]]);
        Self {
            checksum: u32::from(packet[0]) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0,
            gso: u32::from(packet[1]),
            gso_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// The place of the checksum is in the frame.
    fn fits(self, packet: &[u8]) -> bool {
        let end = usize::from(self.checksum_start) + usize::from(self.checksum_offset) + 2;
        !self.checksum || end <= packet.len() - HEADER_BYTES
    }
}

/// True when a packet of the guest lacks only what the driver may leave to the device.
pub(super) fn may_be_sent(packet: &[u8], features: u64) -> bool {
    let has = |bit: u32| features & 1 << bit != 0;
    let lacks = Lacks::of(packet);
    let segments = match lacks.gso {
        VIRTIO_NET_HDR_GSO_NONE => true,
        VIRTIO_NET_HDR_GSO_TCPV4 => has(VIRTIO_NET_F_HOST_TSO4),
        VIRTIO_NET_HDR_GSO_TCPV6 => has(VIRTIO_NET_F_HOST_TSO6),
        VIRTIO_NET_HDR_GSO_UDP_L4 => has(VIRTIO_NET_F_HOST_USO),
        _ => return false,
    };
    let is_long = lacks.gso != VIRTIO_NET_HDR_GSO_NONE;
    segments
        && (!lacks.checksum || has(VIRTIO_NET_F_CSUM))
        && (!is_long || lacks.checksum && lacks.gso_bytes > 0)
        && lacks.fits(packet)
}

/// True when the driver takes a packet although it lacks something.
pub(super) fn may_be_received(packet: &[u8], accepted: Accepted) -> bool {
    let lacks = Lacks::of(packet);
    let long = match lacks.gso {
        VIRTIO_NET_HDR_GSO_NONE => true,
        VIRTIO_NET_HDR_GSO_TCPV4 => accepted.tcp4,
        VIRTIO_NET_HDR_GSO_TCPV6 => accepted.tcp6,
        VIRTIO_NET_HDR_GSO_UDP_L4 => accepted.udp,
        _ => false,
    };
    long && (!lacks.checksum || accepted.checksum)
}

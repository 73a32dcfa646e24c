//! The header of a vsock packet (Virtio 1.2 section 5.10.6).

use vm_memory::GuestMemory;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::virtio::chain::{Buffers, Chain, ChainError};

/// Length of a header in bytes.
pub(super) const HEADER_BYTES: usize = size_of::<Header>();
/// The longest payload of one packet, either way; Linux sends no longer ones.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The CID of the host.
pub(super) const HOST_CID: u64 = 2;
/// Stream sockets, the only type that there is here.
pub(super) const TYPE_STREAM: u16 = 1;

pub(super) const OP_REQUEST: u16 = 1;
pub(super) const OP_RESPONSE: u16 = 2;
pub(super) const OP_RST: u16 = 3;
pub(super) const OP_SHUTDOWN: u16 = 4;
pub(super) const OP_RW: u16 = 5;
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// Flags of a SHUTDOWN: its sender receives no more, sends no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) src_cid: U64,
    pub(super) dst_cid: U64,
    pub(super) src_port: U32,
    pub(super) dst_port: U32,
    /// Length of the payload in bytes.
    pub(super) len: U32,
    pub(super) kind: U16,
    pub(super) op: U16,
    pub(super) flags: U32,
    /// Bytes that the sender can hold for the receiver's stream in all.
    pub(super) buf_alloc: U32,
    /// Bytes of the stream that the sender has passed on so far, modulo 2^32.
    pub(super) fwd_cnt: U32,
}

const _: () = assert!(HEADER_BYTES == 44);

impl Header {
    /// The answer to a packet that belongs to no connection.
    pub(super) fn reset_of(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: OP_RST.into(),
            ..Self::new_zeroed()
        }
    }

    fn new_zeroed() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// A connection's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// A packet from a connection to the guest. Addresses and credit are written into its header when
/// it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) payload: Vec<u8>,
}

impl Outgoing {
    pub(super) fn of(op: u16) -> Self {
        Self {
            op,
            flags: 0,
            payload: Vec::new(),
        }
    }
}

/// A packet from the guest.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) header: Header,
    /// `None` when it is not as long as the header says, or longer than any may be.
    pub(super) payload: Option<Vec<u8>>,
}

/// Reads a packet out of a chain of the transmit queue.
///
/// # Errors
/// There is no whole header in it, or it is not in guest memory.
pub(super) fn read<Mem: GuestMemory>(chain: Chain, mem: &Mem) -> Result<Incoming, ChainError> {
    let Chain {
        mut readable,
        writable,
        ..
    } = chain;
    if !writable.is_empty() {
        return Err(ChainError::WrongShape);
    }
    let payload = readable.split_off(HEADER_BYTES as u64);
    let mut header = Header::new_zeroed();
    readable.read(mem, header.as_mut_bytes())?;
    let len = header.len.get() as usize;
    let payload = if len <= PAYLOAD_BYTES_MAX && len as u64 <= payload.len_bytes() {
        let mut bytes = vec![0; len];
        payload.read(mem, &mut bytes)?;
        Some(bytes)
    } else {
        None
    };
    Ok(Incoming { header, payload })
}

/// Longest payload, in bytes, for a buffer of the receive queue; at least 1.
///
/// # Errors
/// There is no room for a header and one byte, or the buffer is not for receiving.
pub(super) fn room(chain: &Chain) -> Result<usize, ChainError> {
    let room = chain
        .writable
        .len_bytes()
        .saturating_sub(HEADER_BYTES as u64);
    if room == 0 || !chain.readable.is_empty() {
        return Err(ChainError::WrongShape);
    }
    Ok(usize::try_from(room)
        .unwrap_or(usize::MAX)
        .min(PAYLOAD_BYTES_MAX))
}

/// Writes a packet that has room in `buffers`; answers its length in bytes.
///
/// # Errors
/// The buffers are not in guest memory.
pub(super) fn write<Mem: GuestMemory>(
    header: &Header,
    payload: &[u8],
    mut buffers: Buffers,
    mem: &Mem,
) -> Result<u32, ChainError> {
    let rest = buffers.split_off(HEADER_BYTES as u64);
    buffers.write(mem, header.as_bytes())?;
    if !payload.is_empty() {
        rest.write(mem, payload)?;
    }
    Ok((HEADER_BYTES + payload.len()) as u32)
}

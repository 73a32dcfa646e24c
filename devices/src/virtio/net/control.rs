//! Commands of the control queue (Virtio 1.2 section 5.1.6.5).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use vm_memory::GuestMemory;

use crate::virtio::chain::{Chain, ChainError};

/// A command that the card acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The driver has announced its address.
    Announced,
    /// The driver uses so many queue pairs from now on.
    UsePairs(u16),
    /// Anything else, such as the addresses that the card filters by: it filters nothing.
    Other,
}

impl Command {
    /// Reads a command. Its answer has room for a byte.
    ///
    /// # Errors
    /// The command is too short, has no room for an answer, or is not in guest memory.
    pub(super) fn read<Mem: GuestMemory>(chain: &Chain, mem: &Mem) -> Result<Self, ChainError> {
        let mut bytes = [0; 4];
        let length = chain.readable.len_bytes().min(bytes.len() as u64) as usize;
        if length < 2 || chain.writable.is_empty() {
            return Err(ChainError::WrongShape);
        }
        chain.readable.read(mem, &mut bytes[..length])?;
        let [class, command, low, high] = bytes;
        Ok(match (u32::from(class), u32::from(command)) {
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK) => Self::Announced,
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                Self::UsePairs(u16::from_le_bytes([low, high]))
            }
            _ => Self::Other,
        })
    }
}

/// Answers a command.
pub(super) fn answer<Mem: GuestMemory>(
    chain: &Chain,
    mem: &Mem,
    is_ok: bool,
) -> Result<u32, ChainError> {
    let answer = if is_ok { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
    chain.writable.write(mem, &[answer as u8])?;
    Ok(1)
}

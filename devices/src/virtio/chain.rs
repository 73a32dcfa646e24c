//! Descriptor chains, walked strictly and once.
//!
//! `virtio-queue` ends a chain silently where it is broken. Here a chain is either whole or an
//! error, its descriptors are read from guest memory exactly once, and it is no longer than its
//! queue (Virtio 1.2 section 2.7.5.3.1).

use std::ops::Range;

use virtio_queue::DescriptorChain;
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions, VolatileSlice};

/// Errors in a descriptor chain, or in the request that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain loops, is longer than the queue, or points to a descriptor or indirect table that
    /// does not exist.
    #[error("descriptor chain does not end properly")]
    Unterminated,
    /// Virtio 1.2 section 2.7.4.2.
    #[error("descriptor chain has a device-readable buffer after a device-writable one")]
    ReadableAfterWritable,
    /// A buffer of no bytes.
    #[error("descriptor chain has a buffer of length zero")]
    EmptyBuffer,
    /// A buffer is not in guest memory.
    #[error("descriptor chain has a buffer outside guest memory")]
    OutsideMemory,
    /// The buffers are not those that the device needs for a request.
    #[error(
        "descriptor chain has too few buffers of one direction, or some that the request has no \
         use for"
    )]
    WrongShape,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: GuestAddress,
    len_bytes: u32,
}

/// Guest buffers of one direction, taken together as one stream of bytes.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    parts: Vec<Buffer>,
}

impl Buffers {
    /// Length of all buffers together, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| u64::from(part.len_bytes))
            .sum()
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Guest physical address and length of each buffer, in order. They may lie anywhere.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u32)> {
        { self.parts.iter() }.map(|part| (part.address.0, part.len_bytes))
    }

    /// Cuts off and returns the part from byte `at_bytes` on; empty when that is past the end.
    pub fn split_off(&mut self, at_bytes: u64) -> Self {
        let mut before = at_bytes;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let len = u64::from(part.len_bytes);
            if before < len {
                // `before` is smaller than a u32 here, and the address of a later byte of the same
                // buffer: if it overflows it is outside memory, which is found out
                // at the access.
                let cut = before as u32;
                let second = Buffer {
                    address: GuestAddress(part.address.0.wrapping_add(before)),
                    len_bytes: part.len_bytes - cut,
                };
                let mut rest = vec![second];
                rest.extend_from_slice(&self.parts[index + 1..]);
                if cut == 0 {
                    self.parts.truncate(index);
                } else {
                    self.parts[index].len_bytes = cut;
                    self.parts.truncate(index + 1);
                }
                return Self { parts: rest };
            }
            before -= len;
        }
        Self::default()
    }

    /// Copies the first bytes out of guest memory; as many as `bytes` has room for must be there.
    ///
    /// # Errors
    /// There are fewer, or they are not in guest memory.
    pub fn read<Mem: GuestMemory>(&self, mem: &Mem, bytes: &mut [u8]) -> Result<(), ChainError> {
        self.each_part(bytes.len(), |range, address| {
            mem.read_slice(&mut bytes[range], address)
        })
    }

    /// Copies `bytes` to the front of the buffers, which must have room for them.
    ///
    /// # Errors
    /// There is less room, or it is not in guest memory.
    pub fn write<Mem: GuestMemory>(&self, mem: &Mem, bytes: &[u8]) -> Result<(), ChainError> {
        self.each_part(bytes.len(), |range, address| {
            mem.write_slice(&bytes[range], address)
        })
    }

    /// Says which of the first `len` bytes lie at which address.
    fn each_part(
        &self,
        len: usize,
        mut copy: impl FnMut(Range<usize>, GuestAddress) -> Result<(), GuestMemoryError>,
    ) -> Result<(), ChainError> {
        let mut done = 0;
        for part in &self.parts {
            let end = len.min(done + part.len_bytes as usize);
            copy(done..end, part.address).map_err(|_| ChainError::OutsideMemory)?;
            done = end;
        }
        if done == len {
            Ok(())
        } else {
            Err(ChainError::WrongShape)
        }
    }

    /// The host memory behind the buffers, in order.
    ///
    /// # Errors
    /// A buffer is not wholly in guest memory.
    pub fn slices<'a, Mem: GuestMemory>(
        &self,
        mem: &'a Mem,
        access: Permissions,
    ) -> Result<Vec<VolatileSlice<'a, BS<'a, Mem::Bitmap>>>, ChainError> {
        let mut slices = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let found = mem
                .get_slices(part.address, part.len_bytes as usize, access)
                .map_err(|_| ChainError::OutsideMemory)?;
            for slice in found {
                slices.push(slice.map_err(|_| ChainError::OutsideMemory)?);
            }
        }
        Ok(slices)
    }
}

/// One request as the driver has put it: first the buffers that the device reads, then those that
/// it writes.
#[derive(Clone, Debug)]
pub struct Chain {
    head_index: u16,
    /// Buffers that the device may read.
    pub readable: Buffers,
    /// Buffers that the device may write.
    pub writable: Buffers,
}

impl Chain {
    /// Reads the descriptors of a chain from guest memory, at most `queue_size` of them.
    pub(super) fn walk<Mem: GuestMemory>(
        descriptors: DescriptorChain<&Mem>,
        queue_size: u16,
    ) -> Result<Self, ChainError> {
        let head_index = descriptors.head_index();
        let mut chain = Self {
            head_index,
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        let mut terminated = false;
        for descriptor in descriptors.take(usize::from(queue_size)) {
            if descriptor.len() == 0 {
                return Err(ChainError::EmptyBuffer);
            }
            let buffer = Buffer {
                address: descriptor.addr(),
                len_bytes: descriptor.len(),
            };
            if descriptor.is_write_only() {
                chain.writable.parts.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.parts.push(buffer);
            } else {
                return Err(ChainError::ReadableAfterWritable);
            }
            terminated = !descriptor.has_next();
        }
        // The iterator stops at a broken link as it does at the end; only at the end there is no
        // next flag.
        if terminated {
            Ok(chain)
        } else {
            Err(ChainError::Unterminated)
        }
    }

    /// Index of the chain's first descriptor, by which the driver knows the request.
    pub fn head_index(&self) -> u16 {
        self.head_index
    }
}

#[cfg(test)]
#[path = "chain_test.rs"]
mod chain_test;

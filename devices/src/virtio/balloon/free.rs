//! Memory of the guest that it does not use.

/// A range of guest physical addresses, as the guest gave it: it may lie anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeRange {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Guest RAM, as far as the guest can give it back.
pub trait FreePages: Send + Sync {
    /// Size of the units in which memory is given back: a power of two from one page to 2 MiB.
    fn unit_bytes(&self) -> u64;

    /// Empties the units of RAM that lie wholly in these ranges. They hold zeroes when this
    /// returns, and a first touch brings them back. Passes over all that is not RAM. Returns the
    /// number of bytes that were emptied.
    fn release(&self, ranges: &[FreeRange]) -> u64;
}

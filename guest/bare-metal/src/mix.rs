//! A bijective 64-bit hash step and the digest built on it. Not cryptographic: it tells accidents
//! apart, not attackers.

/// Odd constant with well-spread bits (2^64 / golden ratio).
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of splitmix64: every input bit changes about half of the output bits.
#[inline]
pub const fn mix(word: u64) -> u64 {
    let a = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// Digest of a sequence of words, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Digest(u64);

impl Digest {
    /// A digest that begins with `key`, usually the frame's number.
    #[inline]
    pub const fn new(key: u64) -> Self {
        Self(mix(key ^ SPREAD))
    }

    /// Adds one word.
    #[inline]
    pub const fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x2127_599b_f432_5c37);
    }

    /// The result. Digests of different frames are combined by `^`, in any order.
    #[inline]
    pub const fn finish(self) -> u64 {
        mix(self.0)
    }
}

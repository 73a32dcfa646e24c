//! Copies that go past the caches.

use std::arch::x86_64::{__m128i, _mm_load_si128, _mm_sfence, _mm_stream_si128};

use crate::number::BLOCK_SIZE_BYTES;

/// Copies whole blocks with stores that do not read what they overwrite: for 2 MiB that takes a
/// third less than an ordinary copy, which has to have each line of the target first.
///
/// # Safety
/// `from` can be read and `to` written for `blocks` blocks; they do not overlap, and both begin at
/// a multiple of 16 bytes.
pub(super) unsafe fn copy_blocks(from: *const u8, to: *mut u8, blocks: usize) {
    const WIDTH: usize = size_of::<__m128i>();
    const AT_ONCE: usize = 4;
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    let words = blocks * BLOCK_SIZE_BYTES as usize / WIDTH;
    for first in (0..words).step_by(AT_ONCE) {
        // SAFETY: within the ranges that the caller vouches for, whose length is a multiple of what
        // is copied at once, and aligned as it says.
        unsafe {
            let line: [__m128i; AT_ONCE] =
                std::array::from_fn(|word| _mm_load_si128(from.add(first + word)));
            for (word, value) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(first + word), value);
            }
        }
    }
    // Such stores are not ordered with others: whoever is shown the copy next must see all of it.
    // SAFETY: orders stores, and does nothing else.
    unsafe { _mm_sfence() };
}

//! A reserved, aligned range of host virtual addresses.

use std::{io, ptr};

/// Host addresses set aside for guest RAM. All of it is mapped readable and writable for its whole life: first as
/// demand-zero anonymous memory, later by whatever is mapped over it.
#[derive(Debug)]
pub struct Reservation {
    base: *mut u8,
    size_bytes: usize,
}

// SAFETY: the pointer is only an address range owned by this value; all access through it is volatile and by
// callers that uphold their own contracts.
unsafe impl Send for Reservation {}
// SAFETY: as above; no method mutates through `&self`.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `size_bytes` at an address that is a multiple of `align_bytes` (a power of two, whole pages).
    pub fn new(size_bytes: usize, align_bytes: usize) -> io::Result<Self> {
        let padded = size_bytes
            .checked_add(align_bytes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                padded,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast::<u8>();
        let lead = start.align_offset(align_bytes);
        let base = start.wrapping_add(lead);
        let tail = padded - lead - size_bytes;
        if lead > 0 {
            // SAFETY: the first `lead` bytes of the mapping made above, which nothing uses.
            unsafe { libc::munmap(start.cast(), lead) };
        }
        if tail > 0 {
            // SAFETY: the last `tail` bytes of the mapping made above, which nothing uses.
            unsafe { libc::munmap(base.wrapping_add(size_bytes).cast(), tail) };
        }
        Ok(Self { base, size_bytes })
    }

    /// First address.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// First address as a number.
    pub fn start(&self) -> usize {
        self.base as usize
    }

    /// Length in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is owned by this value, and whoever hands out pointers into it holds it alive.
        unsafe { libc::munmap(self.base.cast(), self.size_bytes) };
    }
}

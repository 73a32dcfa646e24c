//! A reserved, aligned range of host virtual addresses.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nvvmm_snapshot::{Resource, ask_for};
use vm_memory::VolatileSlice;

use super::check;
use crate::stats::Counter;

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Host addresses set aside for guest RAM. All of it is mapped readable for its whole life: first
/// as demand-zero anonymous memory, later by whatever is mapped over it. All but what is mapped by
/// [`Sharing::ReadOnly`] is writable, too; that is never written.
#[derive(Debug)]
pub struct AddressRange {
    base: *mut u8,
    size_bytes: usize,
    mmaps: Counter,
}

// SAFETY: the pointer is only an address range owned by this value; all access through it is
// volatile and by callers that uphold their own contracts.
unsafe impl Send for AddressRange {}
// SAFETY: as above; no method mutates through `&self`.
unsafe impl Sync for AddressRange {}

impl AddressRange {
    /// Reserves `size_bytes` at an address that is a multiple of `align_bytes` (a power of two,
    /// whole pages).
    pub fn new(size_bytes: usize, align_bytes: usize) -> io::Result<Self> {
        let padded = size_bytes
            .checked_add(align_bytes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        ask_for(Resource::Mapping)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                padded,
                READ_WRITE,
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
        Ok(Self {
            base,
            size_bytes,
            mmaps: Counter::default(),
        })
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

    /// Number of mappings that were made in it.
    pub fn mmaps(&self) -> u64 {
        self.mmaps.get()
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        // SAFETY: the range is owned by this value, and whoever hands out pointers into it holds it
        // alive.
        unsafe { libc::munmap(self.base.cast(), self.size_bytes) };
    }
}

/// Ways in which pool blocks are mapped at guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Writes reach the block (MAP_SHARED): for blocks that this VM owns.
    Shared,
    /// A write that slips through before write-protection is armed lands in a private page of this
    /// process (MAP_PRIVATE), never in the block: for blocks of a snapshot.
    Private,
    /// Nobody can write (MAP_SHARED, without PROT_WRITE): for blocks that the guest only reads. Any
    /// medium can be mapped so.
    ReadOnly,
}

impl AddressRange {
    /// Atomically replaces what is mapped at `offset_bytes` by `size_bytes` of `file` from
    /// `file_offset_bytes`. All three are whole pages; the range must lie in the reservation.
    pub fn map_file(
        &self,
        offset_bytes: usize,
        size_bytes: usize,
        file: BorrowedFd<'_>,
        file_offset_bytes: u64,
        sharing: Sharing,
    ) -> io::Result<()> {
        let (protection, flags) = match sharing {
            Sharing::Shared => (READ_WRITE, libc::MAP_SHARED),
            Sharing::Private => (READ_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE),
            Sharing::ReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
        };
        self.map_fixed(
            (offset_bytes, size_bytes),
            (protection, flags),
            file.as_raw_fd(),
            file_offset_bytes,
        )
    }

    /// Atomically replaces what is mapped in the range by untouched anonymous memory.
    pub fn map_anonymous(&self, offset_bytes: usize, size_bytes: usize) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.map_fixed((offset_bytes, size_bytes), (READ_WRITE, flags), -1, 0)
    }

    fn map_fixed(
        &self,
        (offset_bytes, size_bytes): (usize, usize),
        (protection, flags): (libc::c_int, libc::c_int),
        fd: libc::c_int,
        file_offset_bytes: u64,
    ) -> io::Result<()> {
        let address = self.address(offset_bytes, size_bytes)?;
        let file_offset = i64::try_from(file_offset_bytes)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        self.mmaps.one();
        ask_for(Resource::Mapping)?;
        // SAFETY: `address` checked the range to lie in this reservation, which only holds guest
        // RAM: memory that is accessed by volatile loads and stores at fixed addresses,
        // never through references, so replacing the pages behind it invalidates nothing
        // that Rust knows of.
        let mapped = unsafe {
            libc::mmap(
                address.cast(),
                size_bytes,
                protection,
                flags | libc::MAP_FIXED,
                fd,
                file_offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Fills the page tables of the range for reading (MADV_POPULATE_READ, Linux 5.14).
    pub fn populate_read(&self, offset_bytes: usize, size_bytes: usize) -> io::Result<()> {
        let address = self.address(offset_bytes, size_bytes)?;
        // SAFETY: the range was checked to lie in this reservation; populating changes no content.
        check(unsafe { libc::madvise(address.cast(), size_bytes, libc::MADV_POPULATE_READ) })
    }

    /// Gives the range pages of this process's own, as a write to each would, with the content they
    /// have (MADV_POPULATE_WRITE, Linux 5.14).
    pub fn populate_write(&self, offset_bytes: usize, size_bytes: usize) -> io::Result<()> {
        let address = self.address(offset_bytes, size_bytes)?;
        // SAFETY: the range was checked to lie in this reservation; populating changes no content.
        check(unsafe { libc::madvise(address.cast(), size_bytes, libc::MADV_POPULATE_WRITE) })
    }

    /// Has the kernel back anonymous memory by huge pages where it can (MADV_HUGEPAGE). A kernel
    /// without them is no error.
    pub fn want_huge_pages(&self) -> io::Result<()> {
        let (address, size_bytes) = (self.as_ptr(), self.size_bytes);
        // SAFETY: the range is all of this reservation; the advice changes no content.
        let advised = unsafe { libc::madvise(address.cast(), size_bytes, libc::MADV_HUGEPAGE) };
        match check(advised) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Empties the page tables of the range (MADV_DONTNEED), all of which must be mapped shared:
    /// the file keeps what the pages hold. Anonymous memory holds zeroes then.
    pub fn drop_page_tables(&self, offset_bytes: usize, size_bytes: usize) -> io::Result<()> {
        let address = self.address(offset_bytes, size_bytes)?;
        // SAFETY: the range was checked to lie in this reservation, which only holds guest RAM:
        // memory that is accessed by volatile loads and stores, which may find anything.
        check(unsafe { libc::madvise(address.cast(), size_bytes, libc::MADV_DONTNEED) })
    }

    /// Writes the bytes of the range to `file` at `file_offset_bytes`, inside the kernel.
    pub fn copy_to_file(
        &self,
        offset_bytes: usize,
        size_bytes: usize,
        file: BorrowedFd<'_>,
        file_offset_bytes: u64,
    ) -> io::Result<()> {
        let end = io::ErrorKind::WriteZero;
        ask_for(Resource::Memory)?;
        self.in_steps(
            offset_bytes,
            size_bytes,
            file_offset_bytes,
            end,
            |address, size, at| {
                // SAFETY: the kernel reads the range, which lies in this reservation and so is
                // mapped.
                unsafe { libc::pwrite(file.as_raw_fd(), address.cast(), size, at) }
            },
        )
    }

    /// Reads the bytes of the range from `file` at `file_offset_bytes`, inside the kernel.
    pub fn copy_from_file(
        &self,
        offset_bytes: usize,
        size_bytes: usize,
        file: BorrowedFd<'_>,
        file_offset_bytes: u64,
    ) -> io::Result<()> {
        let end = io::ErrorKind::UnexpectedEof;
        self.in_steps(
            offset_bytes,
            size_bytes,
            file_offset_bytes,
            end,
            |address, size, at| {
                // SAFETY: the kernel writes the range, which lies in this reservation: memory that
                // is accessed by volatile loads and stores, and so may change at
                // any time.
                unsafe { libc::pread(file.as_raw_fd(), address.cast(), size, at) }
            },
        )
    }

    /// Has `step` deal with a part of the range at a time, given by its address, size and offset in
    /// a file; it answers like pread(2). `end` is what it means when it does nothing.
    fn in_steps(
        &self,
        offset_bytes: usize,
        size_bytes: usize,
        file_offset_bytes: u64,
        end: io::ErrorKind,
        step: impl Fn(*mut u8, usize, i64) -> isize,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < size_bytes {
            let address = self.address(offset_bytes + done, size_bytes - done)?;
            let file_offset = i64::try_from(file_offset_bytes + done as u64)
                .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
            match step(address, size_bytes - done, file_offset) {
                0 => return Err(end.into()),
                moved @ 1.. => done += moved as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies the bytes of the range to `into`, as they are at some moment each: others may write
    /// them meanwhile.
    pub fn read(&self, offset_bytes: usize, into: &mut [u8]) -> io::Result<()> {
        let address = self.address(offset_bytes, into.len())?;
        // SAFETY: the range was checked to lie in this reservation, all of which is mapped at all
        // times, and is read volatile only.
        let range = unsafe { VolatileSlice::new(address, into.len()) };
        range.copy_to(into);
        Ok(())
    }

    /// Copies the bytes of the range to `to_offset_bytes` of another reservation.
    pub fn copy_to(
        &self,
        offset_bytes: usize,
        size_bytes: usize,
        to: &AddressRange,
        to_offset_bytes: usize,
    ) -> io::Result<()> {
        let from = self.address(offset_bytes, size_bytes)?;
        let into = to.address(to_offset_bytes, size_bytes)?;
        // SAFETY: both ranges were checked to lie in their reservations, all of which is mapped at
        // all times, and is accessed volatile only. What is mapped for reading alone is not written
        // by its users; a store there would end the process, and change nothing.
        let (from, into) = unsafe {
            (
                VolatileSlice::new(from, size_bytes),
                VolatileSlice::new(into, size_bytes),
            )
        };
        from.copy_to_volatile_slice(into);
        Ok(())
    }

    /// Copies `bytes` into the range.
    pub fn write(&self, offset_bytes: usize, bytes: &[u8]) -> io::Result<()> {
        let address = self.address(offset_bytes, bytes.len())?;
        // SAFETY: as in `copy_to`, for one range.
        let range = unsafe { VolatileSlice::new(address, bytes.len()) };
        range.copy_from(bytes);
        Ok(())
    }

    /// Address of the range.
    ///
    /// # Errors
    /// `EINVAL` when the range does not lie in the reservation.
    pub(super) fn address(&self, offset_bytes: usize, size_bytes: usize) -> io::Result<*mut u8> {
        match offset_bytes.checked_add(size_bytes) {
            Some(end) if end <= self.size_bytes => Ok(self.base.wrapping_add(offset_bytes)),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

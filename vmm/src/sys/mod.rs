//! Raw system calls and the `unsafe` they need, each behind a safe function.

pub mod address_range;
pub mod kvm;
pub mod limits;
pub mod pagemap;
pub mod peer;
pub mod terminal;
pub mod uffd;

/// Size of a page of this process.
const PAGE_SIZE_BYTES: usize = 4096;

/// Turns the usual "-1 and errno" into a result.
fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

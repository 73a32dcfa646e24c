//! Raw system calls and the `unsafe` they need, each behind a safe function.

use std::{io, thread, time::Duration};

pub mod address_range;
pub mod kvm;
pub mod limits;
pub mod pagemap;
pub mod peer;
pub mod terminal;
pub mod uffd;

/// Size of a page of this process.
const PAGE_SIZE_BYTES: usize = 4096;

/// Tries of a call that the kernel refuses for lack of memory, and the time between two.
const TRIES: u32 = 50;
const REST: Duration = Duration::from_millis(20);

/// Makes a call, and makes it again for about a second while the kernel has no memory for it
/// (ENOMEM). For calls after which there is no way back: some memory comes free all the time.
pub fn patiently<T>(call: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => thread::sleep(REST),
            done => return done,
        }
    }
    call()
}

/// Turns the usual "-1 and errno" into a result.
fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

//! An image becomes processes again.

mod blank;
mod check;
mod credentials;
mod descriptors;
mod files;
mod memory;
mod overlay;
mod pin;
mod process;
mod reserve;
mod stubs;
mod threads;
mod workspace;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::error::Error;
use crate::image::Image;
use crate::pages::PageSource;
pub use reserve::{Empty, Reserve};
use stubs::Nursery;

/// How a restart is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestartOptions<'a> {
    /// What standard input, output and error become, for an image that was captured with external
    /// ones.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// What a restart did with the memory of the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarted {
    /// How long it took to give pages frames that stay, if [`PageSource::wants_frames`].
    pub populate: Duration,
    /// How long [`PageSource::place`] took.
    pub place: Duration,
    /// Pages that are in memory of a reserve.
    pub pages_reserved: u64,
}

/// Restarts an image: the processes run with their old numbers when this returns, the first one as
/// a child of the calling process. Those whose session or process group is none of the image's
/// processes come into the caller's.
///
/// With a reserve they have less to wait for; the first one is then a child of the thread that made
/// the reserve.
pub fn restart(
    image: &Image,
    options: &RestartOptions,
    reserve: Option<Reserve>,
    source: &mut dyn PageSource,
) -> Result<Restarted, Error> {
    check::check(image, options)?;
    let files = files::OpenFiles::open(image, options)?;
    let mut nursery = Nursery::new(image, reserve)?;
    nursery.check_processor()?;
    let mut done = Restarted::default();
    for stub in nursery.stubs() {
        memory::build(stub, &image.kernel, source, &mut done)?;
        descriptors::set(stub, &files)?;
        process::set(stub)?;
        threads::start(stub)?;
    }
    nursery.set_groups()?;
    for stub in nursery.stubs() {
        descriptors::take_terminal(stub, image)?;
        threads::set(stub)?;
        process::set_last(stub)?;
    }
    nursery.release()?;
    Ok(done)
}

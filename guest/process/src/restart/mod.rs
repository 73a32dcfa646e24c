//! An image becomes processes again.

mod check;
mod credentials;
mod descriptors;
mod files;
mod memory;
mod nursery;
mod overlay;
mod pin;
mod process;
mod threads;
mod workspace;

use std::os::fd::BorrowedFd;

use crate::error::Error;
use crate::image::Image;
use crate::pages::PageSource;
use nursery::Nursery;

/// How a restart is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestartOptions<'a> {
    /// What standard input, output and error become, for an image that was captured with external ones.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// Restarts an image: the processes run with their old numbers when this returns, the first one as a child of the calling process.
/// Those whose session or process group is none of the image's processes come into the caller's.
pub fn restart(image: &Image, options: &RestartOptions, source: &mut dyn PageSource) -> Result<(), Error> {
    check::check(image, options)?;
    let files = files::OpenFiles::open(image, options)?;
    let mut nursery = Nursery::new(image)?;
    nursery.check_processor()?;
    for stub in nursery.stubs() {
        memory::build(stub, &image.kernel, source)?;
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
    nursery.release()
}

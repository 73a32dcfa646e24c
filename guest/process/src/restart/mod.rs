//! Makes processes of an image again.

mod advice;
mod attached;
mod barriers;
mod blank;
mod check;
mod content;
mod credentials;
mod descriptors;
mod ended;
mod fetch;
mod files;
mod filters;
mod groups;
mod held;
mod inherited;
mod makers;
mod memory;
mod numbers;
mod options;
mod overlay;
mod paths;
mod pin;
mod pipes;
mod placing;
mod poll_sets;
mod process;
mod reserve;
mod segments;
mod sessions;
mod socket_pairs;
mod sockets;
mod stubs;
mod terminals;
mod threads;
mod timers;
mod workspace;

use crate::error::Error;
use crate::image::Image;
use crate::pages::PageSource;
use held::HeldFiles;
use memory::Building;
pub use options::{RestartOptions, Restarted};
use poll_sets::PollSets;
pub use reserve::{Empty, Reserve};
use stubs::Stubs;
use terminals::Terminals;

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
    let held = HeldFiles::make(image)?;
    let terminals = Terminals::make(image)?;
    let mut files = files::OpenFiles::open(image, options, &held, &terminals)?;
    let mut done = Restarted::default();
    let mut stubs = Stubs::new(image, &terminals, reserve)?;
    for (index, process) in image.processes.iter().enumerate() {
        let parent = (process.parent).map(|parent| &image.processes[parent as usize]);
        let stub = stubs.make(index)?;
        if index == 0 {
            content::fill(stub, image, &held, source, &mut done)?;
        }
        let building = Building {
            image,
            parent,
            held: &held,
        };
        building.build(stub, source, &mut done)?;
    }
    stubs.make_ended()?;
    stubs.set_groups()?;
    sessions::set(&mut stubs, image, &terminals, &mut files)?;
    stubs.end_leaders()?;
    stubs.end_children()?;
    stubs.stop()?;
    files.open_processes(image)?;
    sockets::start(&mut stubs, image, &files)?;
    socket_pairs::make(&mut stubs, image, &mut files)?;
    let mut sets = PollSets::new(image);
    for stub in stubs.all() {
        memory::finish(stub)?;
        sets.fill(stub, &files)?;
        descriptors::set(stub, &files)?;
        process::set(stub)?;
        barriers::register(stub, image)?;
        filters::install(stub)?;
        threads::start(stub)?;
    }
    for stub in stubs.all() {
        descriptors::take_terminal(stub, image)?;
        threads::set(stub)?;
        process::set_last(stub)?;
        timers::start(stub)?;
        attached::set(stub, image)?;
    }
    held.finish(image)?;
    files.start(image)?;
    terminals.start()?;
    stubs.release()?;
    Ok(done)
}

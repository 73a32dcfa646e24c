//! Makes an image of frozen processes.

mod asked;
mod attached;
mod check;
mod collector;
mod confined;
mod files;
mod held;
mod keys;
mod memory;
mod observed;
mod options;
mod outside;
mod poll_sets;
mod process;
mod ranges;
mod relations;
mod settled;
mod terminals;

use std::collections::HashSet;

pub use check::{Checked, check};
pub use options::CaptureOptions;
pub use settled::freeze_and_capture;

use crate::arch::xfeatures;
use crate::error::{Error, Pid, ProcessPart};
use crate::freeze::Frozen;
use crate::image::{Ended, Image};
use crate::observe::{self, EndedProcess};
use crate::pages::PageSink;
use collector::Collector;
use confined::Witnesses;
use held::HeldView;
use memory::Owner;
use observed::{Observation, Observed};

/// The result of a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// All but the content of pages.
    pub image: Image,
    /// The most listings of one process's pages that it took until none moved any more.
    pub rounds: u32,
}

impl Frozen {
    /// Captures the frozen processes, as often as is wanted: nothing of them is changed. They are
    /// checked again, because they may have changed since [`check`].
    pub fn capture(
        &self,
        options: CaptureOptions,
        sink: &mut dyn PageSink,
    ) -> Result<Captured, Error> {
        let pids: Vec<Pid> = self.processes().iter().map(|process| process.pid).collect();
        let observed = Observation::new(&pids, options)?;
        let mut refusals = check::refusals(&observed, options);
        for (frozen, process) in self.processes().iter().zip(&observed.processes) {
            let threads = frozen.threads.iter();
            refusals.extend(threads.filter_map(|thread| thread.refusal(process)));
            let mut threads = frozen.threads.iter();
            if threads.any(|thread| thread.group_stopped) && !frozen.is_stopped() {
                let reason = "is about to stop, or to go on";
                refusals.push(process.refuse(ProcessPart::Process, reason));
            }
        }
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals));
        }
        let mut image = Image {
            kernel: observe::kernel()?.clone(),
            boot: observe::boot()?,
            ..Image::default()
        };
        let mut files = Collector::new(options, &observed.outside);
        let mut witnesses = Witnesses::default();
        for (frozen, observed) in self.processes().iter().zip(&observed.processes) {
            let parent = pids.iter().position(|pid| *pid == observed.leader().parent);
            let parent = if image.processes.is_empty() {
                None
            } else {
                parent.map(|index| index as u32)
            };
            let mut state =
                process::state(frozen, observed, parent, &mut witnesses, &mut files.held)?;
            image.barriers.push(state.barriers);
            state.process.descriptors = files.descriptors(observed, &state.stay_open)?;
            state.settings.locks = files.locks(observed);
            let parent = image.processes.len() as u32;
            let ended = observed.ended.iter().map(|child| ended(child, parent));
            image.ended.extend(ended);
            image.processes.push(state.process);
            image.settings.push(state.settings);
            image.confined.push(state.confined);
        }
        drop(witnesses);
        let collected = files.finish(&observed.processes)?;
        (image.files, image.pipes) = (collected.files, collected.pipes);
        (image.attached, image.pairs) = (collected.attached, collected.pairs);
        (image.connections, image.terminals) = (collected.connections, collected.terminals);
        let views = collected.held.views()?;
        image.xfeatures = xfeatures(&image.processes[0].threads[0].xstate);
        let own = image.processes.iter().zip(&observed.processes);
        let own = own.map(|(process, observed)| Owner::of(process, &of_windows(observed)));
        let mut owners: Vec<Owner> = own.chain(views.iter().map(HeldView::owner)).collect();
        let (pages, rounds) = memory::take(&mut owners, sink)?;
        image.pages = pages;
        for (owner, process) in owners.iter().zip(&mut image.processes) {
            owner.describe(process);
        }
        let of_held = &owners[image.processes.len()..];
        (image.held, image.segments) = collected.held.finish(&views, of_held);
        Ok(Captured { image, rounds })
    }
}

/// The first addresses of mappings that are of a window.
fn of_windows(observed: &Observed) -> HashSet<u64> {
    let mappings = observed.mappings.iter();
    let of_windows = mappings.filter(|mapping| files::is_of_window(mapping));
    of_windows.map(|mapping| mapping.start).collect()
}

fn ended(child: &EndedProcess, parent: u32) -> Ended {
    Ended {
        pid: child.pid,
        parent,
        group: child.relations.group,
        session: child.relations.session,
        name: child.name.clone(),
        status: child.status,
        exit_signal: child.exit_signal,
    }
}

//! The kernel moves pages while they are captured.

use std::collections::HashMap;
use std::io;

use nvvmm_process::{CaptureOptions, Frozen, PageSink, Taken};

use crate::adopts::{frame_of, move_all};
use crate::harness::{Subject, can_run};

const PAGE_BYTES: u64 = 4096;

/// Notes for each page of the image where it is in the process and in memory; has pages moved that
/// it has just noted.
#[derive(Default)]
struct Noting {
    last: HashMap<u64, (u64, u64)>,
    /// Pages that were moved, and where they were before.
    left: HashMap<u64, u64>,
    moved: bool,
}

impl PageSink for Noting {
    fn take(&mut self, process: i32, pages: &[Taken]) -> io::Result<()> {
        for run in pages {
            for page in 0..run.pages {
                let place = (run.address + page * PAGE_BYTES, run.frame + page);
                self.last.insert(run.image_page + page, place);
            }
        }
        if !std::mem::replace(&mut self.moved, true) {
            let addresses = pages.iter().map(|run| (run.address, run.pages));
            move_all(process, addresses)?;
            let places = self.last.iter();
            self.left = places
                .filter(|(_, (address, frame))| frame_of(process, *address) != *frame)
                .map(|(page, (_, frame))| (*page, *frame))
                .collect();
        }
        Ok(())
    }
}

#[test]
fn what_moved_is_handed_over_again() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start("anonymous");
    let frozen = Frozen::new(subject.pid, false).expect("a freeze");
    let mut sink = Noting::default();
    let captured = frozen
        .capture(CaptureOptions::default(), &mut sink)
        .unwrap_or_else(|error| panic!("capture: {error}"));
    assert!(captured.rounds >= 3, "{} rounds", captured.rounds);
    assert_eq!(sink.last.len() as u64, captured.image.pages);
    assert!(sink.left.len() > 10, "{} pages moved", sink.left.len());
    for (page, left) in &sink.left {
        // Nobody holds the pages: the kernel may have moved one since, even back.
        let (address, frame) = sink.last[page];
        assert!(
            frame != *left || frame_of(subject.pid, address) == frame,
            "at {address:#x}"
        );
    }
    drop(frozen);
    subject.finish();
}

use std::collections::HashSet;

use super::{Numbering, Owner, difference};
use crate::capture::ranges::Ranges;
use crate::image::{Mapping, PageRun, Process};
use crate::observe::FrameRun;
use crate::pages::Taken;

fn run(address: u64, frame: u64, pages: u64) -> FrameRun {
    FrameRun {
        address,
        frame,
        pages,
    }
}

#[test]
fn only_pages_that_moved_or_are_new_differ() {
    let before = [run(0x1000, 10, 4), run(0x8000, 50, 2)];
    assert_eq!(difference(&before, &before), []);
    assert_eq!(difference(&[], &before), before);
    // The second page of the first run moved, and one is new.
    let now = [
        run(0x1000, 10, 1),
        run(0x2000, 99, 1),
        run(0x3000, 12, 2),
        run(0x8000, 50, 3),
    ];
    assert_eq!(
        difference(&before, &now),
        [run(0x2000, 99, 1), run(0xa000, 52, 1)]
    );
}

fn numbering(shares: bool, next: u64) -> Numbering {
    Numbering {
        next,
        shares,
        by_frame: Ranges::default(),
    }
}

fn taken(address: u64, frame: u64, image_page: u64, pages: u64) -> Taken {
    Taken {
        address,
        frame,
        image_page,
        pages,
    }
}

#[test]
fn a_page_keeps_its_number() {
    let (mut numbering, mut numbers) = (numbering(false, 100), Ranges::default());
    let mut number = |run| numbering.number(&run, &mut numbers);
    assert_eq!(number(run(0x1000, 10, 2)), [taken(0x1000, 10, 100, 2)]);
    assert_eq!(number(run(0x3000, 70, 1)), [taken(0x3000, 70, 102, 1)]);
    assert_eq!(number(run(0x9000, 71, 1)), [taken(0x9000, 71, 103, 1)]);
    // Known ones in the middle of new ones, in new frames.
    let expected = [
        taken(0x0, 20, 104, 1),
        taken(0x1000, 21, 100, 3),
        taken(0x4000, 24, 105, 5),
        taken(0x9000, 29, 103, 1),
    ];
    assert_eq!(number(run(0x0, 20, 10)), expected);
    assert_eq!(numbering.next, 110);
}

#[test]
fn a_frame_of_two_processes_is_handed_over_once() {
    let mut numbering = numbering(true, 0);
    let [mut parent, mut child] = [Ranges::default(), Ranges::default()];
    assert_eq!(
        numbering.number(&run(0x1000, 10, 8), &mut parent),
        [taken(0x1000, 10, 0, 8)]
    );
    // At another address, and with one page of its own in the middle.
    assert_eq!(numbering.number(&run(0x9000, 12, 3), &mut child), []);
    assert_eq!(
        numbering.number(&run(0xc000, 90, 1), &mut child),
        [taken(0xc000, 90, 8, 1)]
    );
    assert_eq!(
        numbering.number(&run(0xd000, 16, 3), &mut child),
        [taken(0xf000, 18, 9, 1)]
    );
    let found: Vec<_> = child.within(0, 100).collect();
    assert_eq!(found, [(9, 3, 2), (12, 1, 8), (13, 2, 6), (15, 1, 9)]);
    // In the next round one of them has moved.
    numbering.by_frame = Ranges::default();
    assert_eq!(
        numbering.number(&run(0x2000, 50, 1), &mut parent),
        [taken(0x2000, 50, 10, 1)]
    );
    let found: Vec<_> = parent.within(0, 100).collect();
    assert_eq!(found, [(1, 1, 0), (2, 1, 10), (3, 6, 2)]);
}

#[test]
fn runs_are_cut_at_mappings() {
    let mapping = |start, end| Mapping {
        start,
        end,
        ..Mapping::default()
    };
    let mut process = Process {
        mappings: vec![mapping(0x1000, 0x3000), mapping(0x3000, 0x8000)],
        ..Process::default()
    };
    let mut owner = Owner::of(&process, &HashSet::new());
    numbering(false, 0).number(&run(0x1000, 10, 4), &mut owner.numbers);
    owner.last.guards = vec![(0x2000, 3)];
    owner.describe(&mut process);
    assert_eq!(
        process.mappings[0].pages,
        [PageRun {
            address: 0x1000,
            pages: 2,
            image_page: 0
        }]
    );
    assert_eq!(
        process.mappings[1].pages,
        [PageRun {
            address: 0x3000,
            pages: 2,
            image_page: 2
        }]
    );
    assert_eq!(
        (
            &process.mappings[0].guards[..],
            &process.mappings[1].guards[..]
        ),
        (&[(0x2000, 1)][..], &[(0x3000, 2)][..])
    );
}

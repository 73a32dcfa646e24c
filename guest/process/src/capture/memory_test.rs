use std::collections::BTreeMap;

use super::{Numbers, difference, set_pages};
use crate::image::{Mapping, PageRun, Process};
use crate::observe::{FrameRun, Listing};
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

#[test]
fn a_page_keeps_its_number() {
    let mut numbers = Numbers {
        next: 100,
        known: BTreeMap::new(),
    };
    let taken = |address, frame, image_page, pages| Taken {
        address,
        frame,
        image_page,
        pages,
    };
    assert_eq!(
        numbers.number(&run(0x1000, 10, 2)),
        [taken(0x1000, 10, 100, 2)]
    );
    assert_eq!(
        numbers.number(&run(0x3000, 70, 1)),
        [taken(0x3000, 70, 102, 1)]
    );
    assert_eq!(
        numbers.number(&run(0x9000, 71, 1)),
        [taken(0x9000, 71, 103, 1)]
    );
    // Known ones in the middle of new ones, in new frames.
    let expected = [
        taken(0x0, 20, 104, 1),
        taken(0x1000, 21, 100, 3),
        taken(0x4000, 24, 105, 5),
        taken(0x9000, 29, 103, 1),
    ];
    assert_eq!(numbers.number(&run(0x0, 20, 10)), expected);
    assert_eq!(numbers.next, 110);
}

#[test]
fn runs_are_cut_at_mappings() {
    let mut numbers = Numbers {
        next: 0,
        known: BTreeMap::new(),
    };
    numbers.number(&run(0x1000, 10, 4));
    let mapping = |start, end| Mapping {
        start,
        end,
        ..Mapping::default()
    };
    let mut process = Process {
        mappings: vec![mapping(0x1000, 0x3000), mapping(0x3000, 0x8000)],
        ..Process::default()
    };
    let listing = Listing {
        guards: vec![(0x2000, 3)],
        ..Listing::default()
    };
    set_pages(&mut process, &numbers, &listing);
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

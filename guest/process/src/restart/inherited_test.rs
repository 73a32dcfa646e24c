use super::{Inherited, lacking, without};
use crate::image::{Advice, Mapped, MappedFile, Mapping, PageRun, Process};

fn run(page: u64, pages: u64, image_page: u64) -> PageRun {
    PageRun {
        address: page * 4096,
        pages,
        image_page,
    }
}

fn left(runs: &[PageRun], others: &[PageRun]) -> Vec<(u64, u64, u64)> {
    let left = without(runs, others).into_iter();
    left.map(|run| (run.address / 4096, run.pages, run.image_page))
        .collect()
}

#[test]
fn pages_with_the_same_number_at_the_same_address_are_left_out() {
    let runs = [run(10, 10, 100), run(30, 2, 7)];
    assert_eq!(left(&runs, &runs), []);
    assert_eq!(left(&runs, &[]), [(10, 10, 100), (30, 2, 7)]);
    assert_eq!(
        left(&runs, &[run(12, 3, 102)]),
        [(10, 2, 100), (15, 5, 105), (30, 2, 7)]
    );
    assert_eq!(left(&runs, &[run(12, 3, 103)]), [(10, 10, 100), (30, 2, 7)]);
    assert_eq!(
        left(&runs, &[run(5, 8, 95), run(18, 13, 108)]),
        [(13, 5, 103), (30, 2, 7)]
    );
    assert_eq!(left(&[run(12, 3, 102)], &runs), []);
}

fn mapping(start: u64, end: u64, pages: &[PageRun]) -> Mapping {
    Mapping {
        start: start * 4096,
        end: end * 4096,
        pages: pages.to_vec(),
        ..Mapping::default()
    }
}

fn process(mappings: &[Mapping]) -> Process {
    Process {
        mappings: mappings.to_vec(),
        mapped_files: vec![MappedFile::default()],
        ..Process::default()
    }
}

/// The pages from the first to the last that are kept of a parent with one mapping.
fn kept(child: Mapping, parent: Mapping) -> Vec<(u64, u64)> {
    let (child, parent) = (process(&[child]), process(&[parent]));
    let kept = Inherited::choose(&child, &parent).kept(&child);
    kept.iter()
        .map(|(start, end)| (start / 4096, end / 4096))
        .collect()
}

#[test]
fn a_mapping_that_grew_or_lost_an_end_goes_on() {
    let shared = [run(12, 4, 0)];
    assert_eq!(
        kept(mapping(10, 20, &shared), mapping(10, 20, &shared)),
        [(10, 20)]
    );
    assert_eq!(
        kept(mapping(10, 30, &shared), mapping(10, 20, &shared)),
        [(10, 20)]
    );
    assert_eq!(
        kept(mapping(12, 16, &shared), mapping(10, 20, &shared)),
        [(12, 16)]
    );
    assert_eq!(kept(mapping(8, 20, &shared), mapping(10, 20, &shared)), []);
    assert_eq!(
        kept(mapping(10, 20, &[run(12, 4, 1)]), mapping(10, 20, &shared)),
        []
    );
}

#[test]
fn other_kinds_of_memory_do_not_go_on() {
    let shared = [run(12, 4, 0)];
    let with = |change: fn(&mut Mapping)| {
        let mut mapping = mapping(10, 20, &shared);
        change(&mut mapping);
        mapping
    };
    let plain = || mapping(10, 20, &shared);
    let huge = with(|mapping| mapping.advice = vec![Advice::HugePage]);
    assert_eq!(kept(huge.clone(), plain()), []);
    assert_eq!(kept(plain(), huge.clone()), []);
    assert_eq!(kept(huge.clone(), huge), [(10, 20)]);
    let dont_fork = with(|mapping| mapping.advice = vec![Advice::DontFork]);
    assert_eq!(kept(dont_fork.clone(), dont_fork), []);
    let locked = with(|mapping| mapping.advice = vec![Advice::Locked]);
    assert_eq!(kept(plain(), locked), [(10, 20)]);
    let of_file = with(|mapping| mapping.what = Mapped::PrivateFile { file: 0, offset: 0 });
    assert_eq!(kept(of_file.clone(), plain()), []);
    assert_eq!(kept(of_file.clone(), of_file.clone()), [(10, 20)]);
    let mut other = of_file.clone();
    other.what = Mapped::PrivateFile {
        file: 0,
        offset: 4096,
    };
    assert_eq!(kept(other, of_file), []);
}

#[test]
fn a_mapping_lacks_what_its_parent_does_not_have() {
    let (shared, more) = ([run(12, 4, 0)], [run(12, 4, 0), run(18, 1, 9)]);
    let parent = mapping(10, 20, &shared);
    let lacks = |of| lacking(&mapping(10, 20, &more), of).len();
    assert_eq!((lacks(None), lacks(Some(&parent))), (2, 1));
}

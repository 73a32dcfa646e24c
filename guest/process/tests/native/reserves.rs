//! Restarts that find memory ready.

use std::collections::HashSet;

use nvvmm_process::{CaptureOptions, CopiedPages, Empty, FreezeEnd, Image, Reserve};

use crate::adopts::{Adopting, frame_of};
use crate::harness::{Subject, assert_same_pages, can_run, one_at_a_time};
use crate::proc_view::{assert_same, proc_view};

const PAGE_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;

fn reserve(bytes: u64) -> Reserve {
    let reserve = {
        let _alone = one_at_a_time();
        Reserve::begin(bytes)
    };
    reserve
        .and_then(Empty::fill)
        .unwrap_or_else(|error| panic!("a reserve: {error}"))
}

fn frames(reserve: &Reserve) -> HashSet<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", reserve.pid())).expect("a process");
    let ranges = maps.lines().map(|line| {
        let range = line.split(' ').next().expect("a range");
        let (start, end) = range.split_once('-').expect("two ends");
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        (number(start), number(end))
    });
    let (start, end) = ranges
        .max_by_key(|(start, end)| end - start)
        .expect("memory");
    assert_eq!(end - start, reserve.len_bytes());
    let frames: HashSet<u64> = (start..end)
        .step_by(PAGE_BYTES as usize)
        .map(|address| frame_of(reserve.pid(), address))
        .collect();
    assert_eq!(
        frames.len() as u64,
        (end - start) / PAGE_BYTES,
        "pages are absent"
    );
    frames
}

fn killed(
    scenario: &str,
    options: CaptureOptions,
) -> (Subject, Image, CopiedPages, crate::proc_view::ProcView) {
    let mut subject = Subject::start(scenario);
    let before = proc_view(subject.pid);
    let captured = subject.capture(options, FreezeEnd::Kill);
    let (image, pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    (subject, image, pages, before)
}

/// Pages that came out of a reserve of that size, and all pages.
fn pages_from(scenario: &str, options: CaptureOptions, bytes: u64) -> (u64, u64) {
    let (mut subject, image, pages, before) = killed(scenario, options);
    let reserve = reserve(bytes);
    let of_reserve = frames(&reserve);
    let holder = reserve.pid();
    let mut source = Adopting::new(pages);
    subject.restart_with(Some(reserve), &image, &mut source);
    assert!(!std::path::Path::new(&format!("/proc/{holder}")).exists());
    assert_same(&before, subject.pid);
    let again = subject.capture(options, FreezeEnd::Thaw);
    let (again, _) = again.unwrap_or_else(|error| panic!("capture: {error}"));
    assert_same_pages(&image, &again);
    subject.finish();
    let placed = source.frames.len() as u64;
    assert!(placed >= image.pages, "pages were left out");
    let reserved = source
        .frames
        .iter()
        .filter(|frame| of_reserve.contains(frame));
    (reserved.count() as u64, placed)
}

#[test]
fn memory_comes_out_of_a_reserve() {
    if !can_run() {
        return;
    }
    for (scenario, at_least) in [
        ("anonymous", 0),
        ("huge-pages", 1000),
        ("protected", 0),
        ("threads", 0),
        ("private-file", 0),
        ("heap", 64),
        ("stack", 0),
        ("dont-need", 0),
        ("locked-and-advised", 0),
    ] {
        let (reserved, all) = pages_from(scenario, CaptureOptions::default(), 16 * MIB);
        println!("{scenario}: {reserved} of {all} pages");
        assert!(
            reserved >= at_least,
            "{scenario}: {reserved} of {all} pages"
        );
    }
}

#[test]
fn a_reserve_that_is_too_small_gives_what_it_has() {
    if !can_run() {
        return;
    }
    let (reserved, all) = pages_from("huge-pages", CaptureOptions::default(), 2 * MIB);
    assert!(0 < reserved && reserved < all, "{reserved} of {all} pages");
}

#[test]
fn the_first_of_a_tree_gets_it() {
    if !can_run() {
        return;
    }
    let options = CaptureOptions {
        tree: true,
        ..CaptureOptions::default()
    };
    pages_from("tree", options, 16 * MIB);
}

#[test]
fn a_reserve_is_given_back() {
    if !can_run() {
        return;
    }
    let reserve = reserve(4 * MIB);
    let process = std::path::PathBuf::from(format!("/proc/{}", reserve.pid()));
    let state = || {
        let status = std::fs::read_to_string(process.join("status")).expect("a process");
        status.contains("State:\tS")
    };
    for _ in 0..10_000 {
        if state() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(state(), "it does not wait");
    drop(reserve);
    assert!(!process.exists());
}

#[test]
fn a_reserve_ends_with_whoever_made_it() {
    if !can_run() {
        return;
    }
    let reserve = std::thread::spawn(|| reserve(4 * MIB))
        .join()
        .expect("a reserve");
    let is_over = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", reserve.pid()));
        status.is_ok_and(|status| status.contains("State:\tZ"))
    };
    for _ in 0..10_000 {
        if is_over() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(is_over(), "it goes on");
}

/// The kernel took it, as memory was short: a restart that meets this goes without.
#[test]
fn a_reserve_that_was_killed_is_no_more() {
    if !can_run() {
        return;
    }
    let (mut subject, image, mut pages, before) = killed("anonymous", CaptureOptions::default());
    let reserve = reserve(4 * MIB);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(reserve.pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a process");
    subject.restart_with(Some(reserve), &image, &mut pages);
    assert_same(&before, subject.pid);
    subject.finish();
}

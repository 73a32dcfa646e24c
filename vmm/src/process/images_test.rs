//! Frames that go into images and come out of them, over real pools and both engines.

use std::{path::Path, sync::Arc};

use nvvmm_protocol::{FrameRun, Frames};

use super::{test_images::*, *};
use crate::cow::{
    CowEngine, PrivateEngine, RedirectEngine,
    test_guest::{
        FRAME, MIB, Playable, PoolFile, Vm, assert_clean, assert_hold_their_own, pool_of,
    },
};
use crate::window::{WindowMemory, erofs};

fn a_process_is_in_its_image_whatever_is_written_later<E: Playable>(
    directory: &Path,
    by_reference: bool,
) {
    let place = PoolFile::on(directory, "process-image");
    let pool = pool_of(&place, 128 * MIB);
    let mut taker = Vm::<E>::start(&pool, SIZE, None);
    taker.fill(0..FRAMES, 1000);
    // Over the end of a chunk, in pieces and out of order.
    let runs = [run(400, 200, 100), run(10, 100, 0)];
    let kept = capture(&taker, "p", &runs);
    assert_eq!(kept.pages, 300);
    let (given, copied) = if by_reference { (300, 0) } else { (0, 300) };
    assert_eq!((kept.frames_given, kept.frames_copied), (given, copied));
    taker.fill(0..FRAMES, 5000);

    let other = Vm::<E>::start(&pool, SIZE, None);
    other.fill(1000..1300, 9000);
    for (vm, from) in [(&other, 1000), (&taker, 2000), (&other, 600)] {
        let mut placing = placing(vm, "p");
        placing
            .place(&[run(from + 100, 200, 100)], &*vm.engine, &pool)
            .unwrap();
        placing
            .place(&[run(from, 100, 0)], &*vm.engine, &pool)
            .unwrap();
        let (adopted, copied) = if by_reference { (300, 0) } else { (0, 300) };
        assert_eq!((placing.adopted, placing.copied), (adopted, copied));
        // The test's words lie where their first frame says: compare whole pages.
        let pages = (10..110).chain(400..600u64);
        for (page, source) in pages.enumerate() {
            let at = (from + page as u64) * FRAME + 8 * (source % 500);
            assert_eq!(
                vm.read_word(vm_memory::GuestAddress(at)),
                1000 + source,
                "page {page}"
            );
        }
        vm.fill(from..from + 300, 7000);
    }
    assert_hold_their_own(&pool, &[&taker, &other]);
    taker.snapshot("after").unwrap();
    pool.remove("p").unwrap();
    assert_clean(&pool);
    drop(other);
    taker.assert_filled(0..2000, 5000);
    assert_clean(&pool);
}

#[test]
fn redirected_frames_are_in_an_image_by_reference() {
    a_process_is_in_its_image_whatever_is_written_later::<RedirectEngine>(
        Path::new("/dev/shm"),
        true,
    );
}

#[test]
fn private_frames_are_in_an_image_as_copies() {
    a_process_is_in_its_image_whatever_is_written_later::<PrivateEngine>(
        Path::new("/var/tmp"),
        false,
    );
}

#[test]
fn a_write_to_a_process_leaves_its_other_pages_in_the_chunk_shared() {
    let (_place, pool, vm) = redirected("process-scattered");
    vm.fill(0..FRAMES, 1);
    // A page of each 16 frames. The frames between them are the VM's own.
    let runs: Vec<_> = (0..32).map(|page| run(512 + page * 16, 1, page)).collect();
    assert_eq!(capture(&vm, "p", &runs).frames_given, 32);
    let before = vm.engine.counters();
    vm.fill([512 + 5 * 16, 512 + 20 * 16].into_iter(), 7);
    let after = vm.engine.counters();
    assert_eq!(after.frames_copied - before.frames_copied, 2);
    assert_eq!(after.chunks_copied, before.chunks_copied);
    assert_eq!(capture(&vm, "q", &runs).frames_given, 2);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn what_a_window_shows_is_in_the_next_image_by_reference() {
    const GPA: u64 = 1 << 40;
    const PAGES: u32 = 300;
    let (_place, pool, vm) = redirected("process-window");
    capture(&vm, "first", &[run(200, PAGES, 0)]);
    let blocks = |name: &str| {
        let (_, map) = vm.holder.pin(name).unwrap();
        let chunks = map.iter_present().map(|chunk| chunk.unwrap().1);
        let mut blocks: Vec<_> = chunks
            .flat_map(|chunk| chunk.iter_present().collect::<Vec<_>>())
            .collect();
        blocks.sort_unstable_by_key(|(_, block)| *block);
        blocks
            .into_iter()
            .map(|(_, block)| block)
            .collect::<Vec<_>>()
    };
    let (_, map) = vm.holder.pin("first").unwrap();
    let window = WindowMemory::of_image(&pool, &map, PAGES.into(), usize::MAX).unwrap();
    let shown = Arc::new(window.shown_at(GPA));
    let gfn = GPA / FRAME + erofs::metadata_blocks(PAGES as usize) as u64;
    let take = |runs: &[FrameRun]| {
        let mut capturing = Capturing::new(vec![Arc::clone(&shown)]);
        let taken = capturing.take(runs, &*vm.engine, &vm.holder);
        taken.map(|()| capturing)
    };
    for lie in [
        vec![run(gfn - 1, 1, 0)],
        vec![run(gfn + u64::from(PAGES), 1, 0)],
        vec![run(gfn, PAGES + 1, 0)],
        vec![run(gfn, PAGES, FRAMES * 4)],
        vec![run(gfn, PAGES, u64::MAX)],
        vec![run(gfn, PAGES, 0); FRAMES as usize],
    ] {
        let refused = take(&lie);
        assert!(
            matches!(refused, Err(ProcessError::Invalid(_))),
            "{refused:?}"
        );
    }

    // Some pages are the process's own by now.
    let mut capturing = take(&[run(gfn, PAGES, 0), run(10, 20, PAGES.into())]).unwrap();
    let kept = commit(&mut capturing, &vm, "second", u64::from(PAGES) + 20).unwrap();
    assert_eq!((kept.frames_given, kept.frames_copied), (20, 0));
    let (first, second) = (blocks("first"), blocks("second"));
    assert_eq!(second.len(), first.len() + 20);
    assert!(first.iter().all(|block| second.contains(block)));
    pool.remove("first").unwrap();
    drop(vm);
    assert_clean(&pool);
    pool.remove("second").unwrap();
    assert_clean(&pool);
}

#[test]
fn a_page_that_moved_leaves_its_first_frame_to_the_vm() {
    let (_place, pool, vm) = redirected("process-moved");
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    for frame in [5, 7, 5, 9] {
        capturing
            .take(&[run(frame, 1, 0)], &*vm.engine, &vm.holder)
            .unwrap();
        // Whoever has the frame now writes to it.
        vm.write(frame, 77);
    }
    let kept = commit(&mut capturing, &vm, "p", 1).unwrap();
    assert_eq!(kept.frames_given, 1);
    assert!(
        vm.engine.counters().frames_own >= own - 1,
        "{:?}",
        vm.engine.counters()
    );
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_capture_that_comes_to_nothing_leaves_no_trace() {
    let (_place, pool, vm) = redirected("process-nothing");
    capture(&vm, "taken", &[run(0, 10, 0)]);
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    capturing
        .take(&[run(0, 100, 0)], &*vm.engine, &vm.holder)
        .unwrap();
    vm.fill(50..60, 2);
    let error = commit(&mut capturing, &vm, "taken", 100).unwrap_err();
    assert!(
        matches!(
            error,
            ProcessError::Pool(nvvmm_snapshot::Error::NameTaken { .. })
        ),
        "{error}"
    );
    capturing.roll_back(&*vm.engine, &vm.holder);
    // A write may have copied the whole chunk, also what the first image has.
    assert!(vm.engine.counters().frames_own >= own);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn frames_given_ahead_are_in_the_image_as_they_are_when_they_are_taken() {
    let (_place, pool, mut vm) = redirected("process-ahead");
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    let ahead = |gfn, count| Frames { gfn, count };
    capturing
        .give_ahead(&[ahead(0, 400), ahead(100, 10)], &*vm.engine)
        .unwrap();
    assert_eq!(vm.engine.counters().frames_own, own - 400);
    // The guest writes to some meanwhile; others are not taken in the end.
    vm.fill(50..80, 5000);
    capturing
        .take(&[run(0, 300, 0)], &*vm.engine, &vm.holder)
        .unwrap();
    vm.fill(0..512, 9000);
    let kept = commit(&mut capturing, &vm, "p", 300).unwrap();
    assert_eq!((kept.frames_given, kept.frames_copied), (300, 0));
    let other = Vm::<RedirectEngine>::start(&pool, SIZE, None);
    let mut placing = placing(&other, "p");
    placing
        .place(&[run(0, 300, 0)], &*other.engine, &pool)
        .unwrap();
    other.assert_filled(0..50, 1);
    other.assert_filled(50..80, 5000);
    other.assert_filled(80..300, 1);
    vm.assert_filled(0..512, 9000);
    vm.snapshot("all").unwrap();
    assert_hold_their_own(&pool, &[&vm, &other]);
    assert_clean(&pool);
}

#[test]
fn what_was_given_ahead_of_nothing_is_the_vms_own_again() {
    let (_place, pool, vm) = redirected("process-ahead-of-nothing");
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    let everything = [Frames { gfn: 0, count: 512 }];
    capturing.give_ahead(&everything, &*vm.engine).unwrap();
    vm.fill(0..100, 5000);
    capturing.give_ahead(&everything, &*vm.engine).unwrap();
    for lie in [(FRAMES, 1), (u64::MAX, 1), (0, u32::MAX)] {
        let (gfn, count) = lie;
        let refused = capturing.give_ahead(&[Frames { gfn, count }], &*vm.engine);
        assert!(matches!(refused, Err(ProcessError::Invalid(_))), "{lie:?}");
    }
    capturing.roll_back(&*vm.engine, &vm.holder);
    assert_eq!(vm.engine.counters().frames_own, own);
    vm.assert_filled(0..100, 5000);
    vm.assert_filled(100..512, 1);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn adopted_frames_can_be_written_before_they_are_armed() {
    let (_place, pool, vm) = redirected("process-unarmed");
    capture(&vm, "p", &[run(0, 512, 0)]);
    let mut other = Vm::<RedirectEngine>::start(&pool, SIZE, None);
    other.fill(0..1024, 2000);
    placing(&other, "p")
        .place(&[run(300, 512, 0)], &*other.engine, &pool)
        .unwrap();
    // The words lie where the frame they came from says.
    let at = |page: u64| vm_memory::GuestAddress((300 + page) * FRAME + 8 * (page % 500));
    for page in (0..512).step_by(3) {
        assert_eq!(other.read_word(at(page)), 1 + page);
        other.write_word(7000 + page, at(page));
    }
    while other.engine.tidy().unwrap() {}
    let before = other.engine.counters();
    for page in (1..512).step_by(3) {
        other.write_word(8000 + page, at(page));
    }
    // They are armed by now, unless the chunks were copied as a whole.
    let after = other.engine.counters();
    assert!(after.write_faults > before.write_faults || before.chunks_copied > 0);
    let expected = |page: u64| [7000, 8000, 1][(page % 3) as usize] + page;
    (0..512).for_each(|page| assert_eq!(other.read_word(at(page)), expected(page), "{page}"));
    other.snapshot("after").unwrap();
    let third = Vm::<RedirectEngine>::start(&pool, SIZE, Some("after"));
    (0..512).for_each(|page| assert_eq!(third.read_word(at(page)), expected(page), "{page}"));
    vm.assert_filled(0..512, 1);
    assert_hold_their_own(&pool, &[&vm, &other, &third]);
    assert_clean(&pool);
}

#[test]
fn frames_and_pages_that_there_are_not_are_refused() {
    let (_place, pool, vm) = redirected("process-invalid");
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    let mut take = |runs: &[FrameRun]| capturing.take(runs, &*vm.engine, &vm.holder);
    assert_invalid(take(&[run(FRAMES, 1, 0)]), "no memory of this VM");
    assert_invalid(take(&[run(FRAMES - 1, 2, 0)]), "no memory of this VM");
    assert_invalid(take(&[run(u64::MAX, 1, 0)]), "no memory of this VM");
    assert_invalid(
        take(&[run(u64::MAX / FRAME + 1, 1, 0)]),
        "no memory of this VM",
    );
    assert_invalid(take(&[run(0, 1, u64::MAX)]), "at most");
    assert_invalid(take(&[run(0, 1, 4 * FRAMES)]), "at most");
    assert_invalid(take(&[run(0, u32::MAX, 0)]), "frames at a time");
    assert_invalid(
        take(&vec![run(0, FRAMES as u32, 0); 4096]),
        "frames at a time",
    );
    take(&[run(0, 0, 0), run(0, 3, 7)]).unwrap();
    assert_invalid(commit(&mut capturing, &vm, "p", 9), "9 pages");
    assert_invalid(
        commit(&mut capturing, &vm, "p", 4 * FRAMES + 1),
        "pages for an image",
    );
    assert_invalid(commit(&mut Capturing::default(), &vm, "p", 0), "0 pages");
    assert_eq!(commit(&mut capturing, &vm, "p", 10).unwrap().pages, 10);

    let mut placing = placing(&vm, "p");
    let mut put = |runs: &[FrameRun]| placing.place(runs, &*vm.engine, &pool);
    assert_invalid(put(&[run(0, 1, 10)]), "10 at most");
    assert_invalid(put(&[run(FRAMES, 1, 0)]), "no memory of this VM");
    // A page without a block is zeroes.
    put(&[run(200, 10, 0)]).unwrap();
    assert_eq!(vm.read(203), 0);
    // Several processes may have a page.
    put(&[run(200, 10, 0)]).unwrap();
    let lie = (0..FRAMES).find_map(|_| put(&[run(200, 10, 0)]).err());
    assert_invalid(lie.map_or(Ok(()), Err), "again and again");
    assert_eq!(
        vm.engine.counters().frames_own,
        own - 6,
        "three frames went to the image, and three have its blocks"
    );
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn frames_that_are_written_and_named_again_and_again_do_not_use_up_the_pool() {
    let (_place, pool, vm) = redirected("process-again");
    vm.fill(0..FRAMES, 1);
    let mut capturing = Capturing::default();
    let lie = (0..100).find_map(|round| {
        let taken = capturing.take(&[run(0, FRAMES as u32, 0)], &*vm.engine, &vm.holder);
        vm.fill(0..FRAMES, round);
        taken.err()
    });
    assert_invalid(lie.map_or(Ok(()), Err), "again and again");
    let used = pool.status().unwrap().holders[0].blocks_in_use;
    assert!(u64::from(used) <= 4 * FRAMES, "{used}");
    capturing.roll_back(&*vm.engine, &vm.holder);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

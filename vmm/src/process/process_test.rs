//! An agent that lies, and frames that go through an image, over real pools and both engines.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nvvmm_protocol::{
    AfterCapture, Capture, Captured, FailedBecause, FrameRun, Frames, FromAgent, Restart,
    Restarted, ToAgent, receive, send,
};
use nvvmm_snapshot::Pool;

use super::*;
use crate::cow::test_guest::{
    FRAME, MIB, Place, Playable, Vm, assert_clean, assert_hold_their_own, pool_of,
};
use crate::cow::{CowEngine, PrivateEngine, RedirectEngine};
use crate::window::{WindowMemory, erofs};

const SIZE: u64 = 16 * MIB;
const FRAMES: u64 = SIZE / FRAME;

fn run(gfn: u64, pages: u32, image_page: u64) -> FrameRun {
    FrameRun {
        gfn,
        pages,
        image_page,
    }
}

fn saved() -> SavedProcess {
    SavedProcess {
        image: b"threads and files".to_vec(),
    }
}

fn commit<E: Playable>(
    capturing: &mut Capturing,
    vm: &Vm<E>,
    name: &str,
    pages: u64,
) -> Result<Kept, ProcessError> {
    capturing.commit(name, pages, &saved(), &*vm.engine, &vm.holder)
}

fn capture<E: Playable>(vm: &Vm<E>, name: &str, runs: &[FrameRun]) -> Kept {
    let mut capturing = Capturing::default();
    capturing.take(runs, &*vm.engine, &vm.holder).unwrap();
    let pages = runs
        .iter()
        .map(|run| run.image_page + u64::from(run.pages))
        .max()
        .unwrap();
    commit(&mut capturing, vm, name, pages).unwrap()
}

fn placing<E: Playable>(vm: &Vm<E>, name: &str) -> Placing {
    let (entry, frames) = vm.holder.pin(name).unwrap();
    Placing::new(frames, entry.memory_bytes / FRAME)
}

fn a_process_is_in_its_image_whatever_is_written_later<E: Playable>(
    directory: &Path,
    by_reference: bool,
) {
    let place = Place::on(directory, "process-image");
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

fn redirected(name: &str) -> (Place, Arc<Pool>, Vm<RedirectEngine>) {
    let place = Place::new(name);
    let pool = pool_of(&place, 128 * MIB);
    let vm = Vm::start(&pool, SIZE, None);
    vm.fill(0..512, 1);
    (place, pool, vm)
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
        assert!(matches!(refused, Err(ProcessError::Lie(_))), "{refused:?}");
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
    assert_eq!(vm.engine.counters().frames_own, own);
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
        assert!(matches!(refused, Err(ProcessError::Lie(_))), "{lie:?}");
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
    let faults = || other.engine.counters().write_faults;
    let before = faults();
    for page in (1..512).step_by(3) {
        other.write_word(8000 + page, at(page));
    }
    assert!(faults() > before);
    let expected = |page: u64| [7000, 8000, 1][(page % 3) as usize] + page;
    (0..512).for_each(|page| assert_eq!(other.read_word(at(page)), expected(page), "{page}"));
    other.snapshot("after").unwrap();
    let third = Vm::<RedirectEngine>::start(&pool, SIZE, Some("after"));
    (0..512).for_each(|page| assert_eq!(third.read_word(at(page)), expected(page), "{page}"));
    vm.assert_filled(0..512, 1);
    assert_hold_their_own(&pool, &[&vm, &other, &third]);
    assert_clean(&pool);
}

fn assert_lie<T: std::fmt::Debug>(outcome: Result<T, ProcessError>, what: &str) {
    match outcome {
        Err(ProcessError::Lie(message)) if message.contains(what) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_and_pages_that_there_are_not_are_refused() {
    let (_place, pool, vm) = redirected("process-lies");
    let own = vm.engine.counters().frames_own;
    let mut capturing = Capturing::default();
    let mut take = |runs: &[FrameRun]| capturing.take(runs, &*vm.engine, &vm.holder);
    assert_lie(take(&[run(FRAMES, 1, 0)]), "no memory of this VM");
    assert_lie(take(&[run(FRAMES - 1, 2, 0)]), "no memory of this VM");
    assert_lie(take(&[run(u64::MAX, 1, 0)]), "no memory of this VM");
    assert_lie(
        take(&[run(u64::MAX / FRAME + 1, 1, 0)]),
        "no memory of this VM",
    );
    assert_lie(take(&[run(0, 1, u64::MAX)]), "at most");
    assert_lie(take(&[run(0, 1, 4 * FRAMES)]), "at most");
    assert_lie(take(&[run(0, u32::MAX, 0)]), "frames at a time");
    assert_lie(
        take(&vec![run(0, FRAMES as u32, 0); 4096]),
        "frames at a time",
    );
    take(&[run(0, 0, 0), run(0, 3, 7)]).unwrap();
    assert_lie(commit(&mut capturing, &vm, "p", 9), "9 pages");
    assert_lie(
        commit(&mut capturing, &vm, "p", 4 * FRAMES + 1),
        "pages for an image",
    );
    assert_lie(commit(&mut Capturing::default(), &vm, "p", 0), "0 pages");
    assert_eq!(commit(&mut capturing, &vm, "p", 10).unwrap().pages, 10);

    let mut placing = placing(&vm, "p");
    let mut put = |runs: &[FrameRun]| placing.place(runs, &*vm.engine, &pool);
    assert_lie(put(&[run(0, 1, 10)]), "10 at most");
    assert_lie(put(&[run(FRAMES, 1, 0)]), "no memory of this VM");
    // A page without a block is zeroes.
    put(&[run(200, 10, 0)]).unwrap();
    assert_eq!(vm.read(203), 0);
    assert_lie(
        put(&[run(200, 1, 0)]),
        "more frames than the image has pages",
    );
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
    assert_lie(lie.map_or(Ok(()), Err), "again and again");
    let used = pool.status().unwrap().holders[0].blocks_in_use;
    assert!(u64::from(used) <= 4 * FRAMES, "{used}");
    capturing.roll_back(&*vm.engine, &vm.holder);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

/// Keeps what it is asked for.
#[derive(Default)]
struct Noted {
    taken: usize,
    ahead: usize,
    committed: Option<(Vec<u8>, u64)>,
    refuses: bool,
}

impl Noted {
    fn note(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        if self.refuses {
            return Err(ProcessError::Overtaken);
        }
        self.taken += runs.len();
        Ok(())
    }
}

impl CaptureSteps for Noted {
    fn give_ahead(&mut self, frames: &[Frames]) -> Result<(), ProcessError> {
        self.ahead += frames.len();
        Ok(())
    }

    fn take(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.note(runs)
    }

    fn commit(&mut self, image: Vec<u8>, pages: u64) -> Result<(), ProcessError> {
        self.committed = Some((image, pages));
        Ok(())
    }
}

impl PlaceSteps for Noted {
    fn place(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.note(runs)
    }
}

const CAPTURED: Captured = Captured {
    processes: 1,
    threads: 1,
    frozen_us: 1,
    pages_sent: 1,
    rounds: 1,
};

/// What comes of a capture whose agent says this, whatever it hears.
fn capture_with(said: Vec<FromAgent>, steps: &mut Noted) -> Result<Captured, AgentError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        for message in &said {
            let _ = send(&theirs, message);
        }
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        // Heard to the end, so that the host's words find room.
        while receive::<ToAgent>(&theirs).is_ok() {}
    });
    let request = Capture {
        pid: 1,
        tree: false,
        external_stdio: true,
        afterwards: AfterCapture::Thaw,
    };
    let outcome = conversation::capture(&ours, request, 100, steps);
    drop(ours);
    agent.join().unwrap();
    outcome
}

fn image(bytes: u64, parts: &[usize]) -> Vec<FromAgent> {
    let mut said = vec![FromAgent::Image { bytes, pages: 3 }];
    said.extend(parts.iter().map(|len| FromAgent::Data(vec![7; *len])));
    said.push(FromAgent::End);
    said
}

#[test]
fn an_agent_that_does_as_it_should_is_heard_to_the_end() {
    let mut steps = Noted::default();
    let mut said = vec![
        FromAgent::Ahead(vec![Frames { gfn: 1, count: 7 }; 2]),
        FromAgent::Frames(vec![run(1, 1, 0)]),
    ];
    said.extend(image(50, &[30, 0, 20]));
    said.push(FromAgent::Captured(CAPTURED));
    assert_eq!(capture_with(said, &mut steps).unwrap(), CAPTURED);
    assert_eq!((steps.ahead, steps.taken), (2, 1));
    assert_eq!(steps.committed, Some((vec![7; 50], 3)));
}

#[test]
fn an_agent_that_talks_out_of_turn_captures_nothing() {
    let frames = || FromAgent::Frames(vec![run(1, 1, 0)]);
    let wrong = [
        vec![FromAgent::Captured(CAPTURED)],
        vec![FromAgent::End],
        vec![FromAgent::Data(vec![1])],
        image(50, &[20, 20]),
        image(50, &[30, 30]),
        image(101, &[101]),
        image(u64::MAX, &[1]),
        vec![
            FromAgent::Image {
                bytes: 50,
                pages: 3,
            },
            frames(),
        ],
        vec![frames()],
        vec![],
    ];
    for said in wrong {
        let mut steps = Noted::default();
        let outcome = capture_with(said.clone(), &mut steps);
        assert!(outcome.is_err() && steps.committed.is_none(), "{said:?}");
    }
    // Once the image is there, nothing can be added to it.
    for late in [
        frames(),
        FromAgent::Ahead(vec![Frames { gfn: 1, count: 1 }]),
    ] {
        let mut steps = Noted::default();
        let said: Vec<_> = image(1, &[1])
            .into_iter()
            .chain([late, FromAgent::Captured(CAPTURED)])
            .collect();
        assert!(matches!(
            capture_with(said, &mut steps),
            Err(AgentError::OutOfTurn)
        ));
        assert_eq!((steps.ahead, steps.taken), (0, 0));
    }
}

#[test]
fn what_the_guest_says_of_a_failure_reaches_no_terminal_as_it_is() {
    let said = FromAgent::Failed {
        because: FailedBecause::Refused,
        message: "\x1b[2Jfd 3: a socket".into(),
    };
    let error = capture_with(vec![said], &mut Noted::default()).unwrap_err();
    assert_eq!(error.to_string(), "\\u{1b}[2Jfd 3: a socket");
}

#[test]
fn bytes_that_are_no_message_end_a_restart() {
    use std::io::Write;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        (&theirs).write_all(&[0xff; 64]).unwrap();
        while receive::<ToAgent>(&theirs).is_ok() {}
    });
    let request = Restart {
        bytes: 3,
        attach: false,
        terminal: None,
        window: None,
    };
    let outcome: Result<Restarted, _> =
        conversation::restart(&ours, request, b"abc", &mut Noted::default());
    assert!(matches!(outcome, Err(AgentError::Stream(_))), "{outcome:?}");
    drop(ours);
    agent.join().unwrap();
}

#[test]
fn an_agent_is_told_that_the_host_cannot() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut heard = vec![receive::<ToAgent>(&theirs).unwrap()];
        send(&theirs, &FromAgent::Frames(vec![run(1, 1, 0)])).unwrap();
        while let Ok(message) = receive::<ToAgent>(&theirs) {
            heard.push(message);
            let failed = FromAgent::Failed {
                because: FailedBecause::Failed,
                message: String::new(),
            };
            let _ = send(&theirs, &failed);
        }
        heard
    });
    let request = Capture {
        pid: 1,
        tree: false,
        external_stdio: true,
        afterwards: AfterCapture::Kill,
    };
    let mut steps = Noted {
        refuses: true,
        ..Noted::default()
    };
    let outcome = conversation::capture(&ours, request, 100, &mut steps);
    assert!(
        matches!(outcome, Err(AgentError::Ours(ProcessError::Overtaken))),
        "{outcome:?}"
    );
    drop(ours);
    let heard = agent.join().unwrap();
    assert!(matches!(heard[1], ToAgent::Refused { .. }), "{heard:?}");
}

#[test]
fn a_state_blob_of_a_process_is_one_and_no_other() {
    let blob = saved().encode();
    assert_eq!(SavedProcess::decode(&blob).unwrap(), saved());
    // All but what is reserved.
    for at in (0..blob.len()).filter(|at| !(28..32).contains(at)) {
        let mut damaged = blob.clone();
        damaged[at] ^= 1;
        assert!(SavedProcess::decode(&damaged).is_err(), "byte {at}");
        assert!(SavedProcess::decode(&blob[..at]).is_err(), "cut at {at}");
    }
    crate::checkpoint::blob::SavedVm::decode(&blob).unwrap_err();
}

/// How many frames of the VM this process has in its page tables.
fn in_page_tables(vm: &Vm<RedirectEngine>) -> usize {
    use std::os::unix::fs::FileExt;
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0; FRAMES as usize * 8];
    let first = vm.engine.ram().reservation().start() as u64 / FRAME;
    pagemap.read_exact_at(&mut entries, first * 8).unwrap();
    let entries = entries.as_chunks().0.iter();
    entries
        .filter(|entry| u64::from_le_bytes(**entry) >> 63 == 1)
        .count()
}

#[test]
fn frames_that_are_not_used_leave_the_page_tables_and_nothing_else() {
    let (_place, pool, mut vm) = redirected("process-idle");
    vm.fill(0..FRAMES, 1000);
    let frames = |gfn, count| Frames { gfn, count };
    assert_eq!(in_page_tables(&vm) as u64, FRAMES);
    set_idle(&[frames(5, 600), frames(FRAMES - 1, 1)], &*vm.engine).unwrap();
    assert_eq!(in_page_tables(&vm) as u64, FRAMES - 601);
    vm.assert_filled(0..FRAMES, 1000);
    // What a snapshot has is armed, and stays so.
    vm.snapshot("all").unwrap();
    set_idle(&[frames(0, FRAMES as u32)], &*vm.engine).unwrap();
    vm.fill(0..FRAMES / 2, 5000);
    set_idle(&[frames(0, FRAMES as u32)], &*vm.engine).unwrap();
    vm.assert_filled(0..FRAMES / 2, 5000);
    vm.assert_filled(FRAMES / 2..FRAMES, 1000);
    let other = Vm::<RedirectEngine>::start(&pool, SIZE, Some("all"));
    other.write(3, 7);
    set_idle(&[frames(0, FRAMES as u32)], &*other.engine).unwrap();
    assert_eq!(other.read(3), 7);
    other.assert_filled(4..FRAMES, 1000);
    for lie in [frames(FRAMES, 1), frames(u64::MAX, 1), frames(0, u32::MAX)] {
        assert!(matches!(
            set_idle(&[lie], &*vm.engine),
            Err(ProcessError::Lie(_))
        ));
    }
    assert_hold_their_own(&pool, &[&vm, &other]);
    assert_clean(&pool);
}

//! A restart that asks for frames: what an agent needs whose host repoints them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nvvmm_process::{CaptureOptions, CopiedPages, FreezeEnd, PageSource, Placed};

use crate::harness::{Subject, can_run};

const PAGE_BYTES: u64 = 4096;

/// Makes the kernel try to move pages, given as address and number: together into huge pages, and
/// out of the way of others.
pub fn move_all(process: i32, runs: impl Iterator<Item = (u64, u64)>) -> io::Result<()> {
    const MADV_COLLAPSE: i32 = 25;
    const HUGE_PAGE_BYTES: u64 = 2 << 20;
    let of_huge_pages: BTreeSet<u64> = runs
        .flat_map(|(address, pages)| (0..pages).map(move |page| address + page * PAGE_BYTES))
        .map(|address| address / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
        .collect();
    // SAFETY: takes no pointers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    assert!(process >= 0, "{}", io::Error::last_os_error());
    for address in of_huge_pages {
        let range = [address, HUGE_PAGE_BYTES];
        // SAFETY: the kernel reads the range, one struct iovec, which is about the other process.
        // That it cannot be done is what is expected.
        unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process,
                &range,
                1,
                MADV_COLLAPSE,
                0,
            )
        };
    }
    // SAFETY: nobody else has the descriptor.
    unsafe { libc::close(process as i32) };
    std::fs::write("/proc/sys/vm/compact_memory", "1")
}

/// The frame that a page is in.
pub fn frame_of(process: i32, address: u64) -> u64 {
    const FRAME_MASK: u64 = (1 << 55) - 1;
    let pagemap = File::open(format!("/proc/{process}/pagemap")).expect("a process");
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, address / PAGE_BYTES * 8)
        .expect("an entry");
    u64::from_le_bytes(entry) & FRAME_MASK
}

/// Copies, but looks first whether each page is in the frame that it is said to be in.
pub struct Adopting {
    pages: CopiedPages,
    /// All frames that it was told of.
    pub frames: Vec<u64>,
}

impl Adopting {
    pub fn new(pages: CopiedPages) -> Self {
        Self {
            pages,
            frames: Vec::new(),
        }
    }
}

impl PageSource for Adopting {
    fn wants_frames(&self) -> bool {
        true
    }

    fn place(&mut self, process: i32, placed: &[Placed]) -> io::Result<()> {
        move_all(process, placed.iter().map(|run| (run.address, run.pages)))?;
        for run in placed {
            for page in 0..run.pages {
                let address = run.address + page * PAGE_BYTES;
                let frame = run.frame.expect("a frame") + page;
                assert_eq!(frame_of(process, address), frame, "at {address:#x}");
                self.frames.push(frame);
            }
        }
        self.pages.place(process, placed)
    }
}

#[test]
fn every_page_is_in_its_frame() {
    for scenario in [
        "anonymous",
        "huge-pages",
        "private-file",
        "protected",
        "threads",
        "memory-files",
        "shared-anonymous",
        "segments",
        "deleted-files",
    ] {
        if !can_run() {
            return;
        }
        let mut subject = Subject::start(scenario);
        let captured = subject.capture(CaptureOptions::default(), FreezeEnd::Kill);
        let (image, pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
        subject.reap_killed(&image);
        let mut source = Adopting::new(pages);
        subject.restart(&image, &mut source);
        assert_eq!(
            source.frames.len() as u64,
            image.pages,
            "{scenario}: pages were left out"
        );
        let again = subject.capture(CaptureOptions::default(), FreezeEnd::Thaw);
        let (again, _) = again.unwrap_or_else(|error| panic!("capture: {error}"));
        assert_eq!(again.pages, image.pages, "{scenario} has other pages now");
        subject.finish();
    }
}

/// Children have in common what they have from their parent. What only children have in common is
/// placed for each.
#[test]
fn memory_that_a_fork_shares_is_taken_and_placed_once() {
    if !can_run() {
        return;
    }
    let options = CaptureOptions {
        tree: true,
        ..CaptureOptions::default()
    };
    let mut subject = Subject::start("forked-memory");
    let captured = subject.capture(options, FreezeEnd::Kill);
    let (image, pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
    subject.reap_killed(&image);
    let mappings = (image.processes.iter()).flat_map(|process| &process.mappings);
    let runs = mappings.flat_map(|mapping| &mapping.pages);
    let of_all: u64 = runs.map(|run| run.pages).sum();
    assert_eq!(pages.taken(), image.pages);
    assert!(of_all > 6 * 1500 && image.pages < 2000, "{}", image.pages);
    let mut source = Adopting::new(pages);
    subject.restart(&image, &mut source);
    let placed = source.frames.len() as u64;
    assert!((image.pages..2000).contains(&placed), "{placed}");
    subject.finish();
}

//! A restart that asks for frames: what an agent needs whose host repoints them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nvvmm_process::{Afterwards, CaptureOptions, CopiedPages, PageSource, Placed};

use crate::harness::{Subject, can_run};

const PAGE_BYTES: u64 = 4096;

/// Copies, but looks first whether each page is in the frame that it is said to be in.
struct Adopting {
    pages: CopiedPages,
    looked_at: u64,
}

impl PageSource for Adopting {
    fn wants_frames(&self) -> bool {
        true
    }

    fn place(&mut self, process: i32, placed: &[Placed]) -> io::Result<()> {
        // Whatever the kernel would move, it moves now.
        std::fs::write("/proc/sys/vm/compact_memory", "1")?;
        const FRAME_MASK: u64 = (1 << 55) - 1;
        let pagemap = File::open(format!("/proc/{process}/pagemap"))?;
        for run in placed {
            for page in 0..run.pages {
                let mut entry = [0; 8];
                pagemap.read_exact_at(&mut entry, (run.address / PAGE_BYTES + page) * 8)?;
                let frame = run.frame.map(|first| first + page);
                assert_eq!(
                    Some(u64::from_le_bytes(entry) & FRAME_MASK),
                    frame,
                    "at {:#x}, page {page}",
                    run.address
                );
                self.looked_at += 1;
            }
        }
        self.pages.place(process, placed)
    }
}

#[test]
fn every_page_is_in_its_frame() {
    for scenario in ["anonymous", "huge-pages", "private-file", "protected", "threads"] {
        if !can_run() {
            return;
        }
        let mut subject = Subject::start(scenario);
        let captured = subject.capture(CaptureOptions::default(), Afterwards::Kill);
        let (image, pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
        subject.reap_killed(&image);
        let mut source = Adopting { pages, looked_at: 0 };
        subject.restart(&image, &mut source);
        assert_eq!(source.looked_at, image.pages, "pages were left out");
        subject.finish();
    }
}

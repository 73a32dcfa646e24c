use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::{PageSource, Placed};
use crate::arch::PAGE_BYTES;
use crate::error::Pid;

/// An image's pages in a file that processes may go on using. What is not mapped from it is copied.
#[derive(Debug)]
pub struct WindowPages {
    file: File,
    copied: u64,
}

impl WindowPages {
    /// The pages are in `file`, in their order.
    pub fn new(file: File) -> Self {
        Self { file, copied: 0 }
    }

    /// Number of pages that were copied.
    pub fn copied(&self) -> u64 {
        self.copied
    }
}

impl PageSource for WindowPages {
    fn window(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn place(&mut self, process: Pid, pages: &[Placed]) -> io::Result<()> {
        let memory = File::options()
            .write(true)
            .open(format!("/proc/{process}/mem"))?;
        let mut page = [0; PAGE_BYTES as usize];
        for run in pages {
            for number in 0..run.pages {
                let at = run
                    .image_page
                    .saturating_add(number)
                    .saturating_mul(PAGE_BYTES);
                self.file.read_exact_at(&mut page, at)?;
                memory.write_all_at(&page, run.address + number * PAGE_BYTES)?;
            }
            self.copied += run.pages;
        }
        Ok(())
    }
}

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{PageSink, PageSource, Placed, Taken};
use crate::arch::PAGE_BYTES;
use crate::error::Pid;

/// An image's pages as a plain copy in this process's memory: for tests, and where there is no host
/// to share frames with.
#[derive(Clone, Debug, Default)]
pub struct CopiedPages {
    bytes: Vec<u8>,
    taken: u64,
}

impl CopiedPages {
    /// The pages, from the first one of the image on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of pages that were taken; a page that was taken again counts again.
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl PageSink for CopiedPages {
    fn take(&mut self, process: Pid, pages: &[Taken]) -> io::Result<()> {
        let memory = File::open(format!("/proc/{process}/mem"))?;
        for run in pages {
            let start = (run.image_page * PAGE_BYTES) as usize;
            let end = start + (run.pages * PAGE_BYTES) as usize;
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            memory.read_exact_at(&mut self.bytes[start..end], run.address)?;
            self.taken += run.pages;
        }
        Ok(())
    }
}

impl PageSource for CopiedPages {
    fn place(&mut self, process: Pid, pages: &[Placed]) -> io::Result<()> {
        let memory = File::options()
            .write(true)
            .open(format!("/proc/{process}/mem"))?;
        for run in pages {
            let start = run.image_page.saturating_mul(PAGE_BYTES) as usize;
            let end = start.saturating_add(run.pages.saturating_mul(PAGE_BYTES) as usize);
            let bytes = self
                .bytes
                .get(start..end)
                .ok_or(io::ErrorKind::InvalidData)?;
            memory.write_all_at(bytes, run.address)?;
        }
        Ok(())
    }
}

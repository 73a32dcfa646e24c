use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::arch::PAGE_BYTES;
use crate::error::{Error, Pid, failed};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is of a file, or of shared anonymous memory.
const OF_FILE: u64 = 1 << 61;
const GUARD: u64 = 1 << 58;
/// Mapped here and nowhere else. The zero page is not.
const EXCLUSIVE: u64 = 1 << 56;
const FRAME_MASK: u64 = (1 << 55) - 1;

/// Bit 24 of /proc/kpageflags: the zero page, small or huge.
const KPF_ZERO_PAGE: u64 = 1 << 24;

/// Number of entries that are read at once.
const BATCH: usize = 1 << 13;

/// The kind of pages in page tables that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Memory of the process's own.
    Own,
    /// All of a window: there is something on every page.
    OfWindow,
    /// Only what the process has written to memory of a window: its own pages.
    WrittenOfWindow,
    /// Pages of a file, or of memory that processes share: there is something on every page.
    OfFile,
}

/// Neighbouring pages in neighbouring frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// The address of the first page.
    pub address: u64,
    /// The number of the first frame (PFN).
    pub frame: u64,
    /// Number of pages.
    pub pages: u64,
}

/// The entries of page tables for a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Memory of the process's own, by address; zero pages are left out.
    pub runs: Vec<FrameRun>,
    /// The addresses of pages that have no frame right now.
    pub absent: Vec<u64>,
    /// Guard regions (madvise(2), MADV_GUARD_INSTALL): first address and pages.
    pub guards: Vec<(u64, u64)>,
    /// Number of pages of the runs that are mapped elsewhere, too.
    pub shared: u64,
}

impl Listing {
    /// Number of pages in the runs.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.pages).sum()
    }
}

/// /proc/PID/pagemap of a process.
#[derive(Debug)]
pub struct Pagemap {
    entries: File,
    flags: File,
    /// Frames that were looked at already, newest last: mostly it is the one zero page that is
    /// asked for.
    known: Option<(u64, bool)>,
    /// Frames that several processes have and that are no zero page. These are asked about again
    /// with each process.
    ordinary: HashSet<u64>,
}

impl Pagemap {
    /// Opens it. Needs CAP_SYS_ADMIN, without which the kernel hides frame numbers.
    pub fn open(pid: Pid) -> Result<Self, Error> {
        let open = |name: &str| File::open(name).map_err(failed(format!("open {name}")));
        Ok(Self {
            entries: open(&format!("/proc/{pid}/pagemap"))?,
            flags: open("/proc/kpageflags")?,
            known: None,
            ordinary: HashSet::new(),
        })
    }

    /// Goes on with another process, and with what is known of frames.
    pub fn go_on_with(&mut self, pid: Pid) -> Result<(), Error> {
        let name = format!("/proc/{pid}/pagemap");
        self.entries = File::open(&name).map_err(failed(format!("open {name}")))?;
        Ok(())
    }

    /// Adds what is between two addresses to the listing.
    pub fn list(
        &mut self,
        start: u64,
        end: u64,
        wanted: Pages,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let mut buffer = vec![0u8; BATCH * 8];
        let mut address = start;
        while address < end {
            let pages = ((end - address) / PAGE_BYTES).min(BATCH as u64) as usize;
            let entries = &mut buffer[..pages * 8];
            self.entries
                .read_exact_at(entries, address / PAGE_BYTES * 8)
                .map_err(failed("read a pagemap"))?;
            for entry in entries.as_chunks::<8>().0 {
                self.add(address, u64::from_le_bytes(*entry), wanted, listing)?;
                address += PAGE_BYTES;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        address: u64,
        entry: u64,
        wanted: Pages,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let present = entry & PRESENT != 0;
        let exclusive = entry & EXCLUSIVE != 0;
        if entry & GUARD != 0 {
            match listing.guards.last_mut() {
                Some((start, pages)) if *start + *pages * PAGE_BYTES == address => *pages += 1,
                _ => listing.guards.push((address, 1)),
            }
            return Ok(());
        }
        let is_everywhere = matches!(wanted, Pages::OfWindow | Pages::OfFile);
        if entry & SWAPPED != 0 || is_everywhere && !present {
            listing.absent.push(address);
            return Ok(());
        }
        let frame = entry & FRAME_MASK;
        // The kernel has no flags for a window's frames. Their entries show neither a file nor that
        // they are exclusive.
        let listed = present
            && match wanted {
                Pages::Own => {
                    entry & OF_FILE == 0
                        && (exclusive || frame == 0 || !self.is_zero_page(address, frame)?)
                }
                Pages::OfWindow | Pages::OfFile => true,
                Pages::WrittenOfWindow => exclusive && entry & OF_FILE == 0,
            };
        if listed {
            if frame == 0 {
                return Err(failed("read frame numbers")(io::Error::from(
                    io::ErrorKind::PermissionDenied,
                )));
            }
            push(&mut listing.runs, address, frame);
            listing.shared += u64::from(!exclusive);
        }
        Ok(())
    }

    fn is_zero_page(&mut self, address: u64, frame: u64) -> Result<bool, Error> {
        if let Some((known, zero)) = self.known
            && known == frame
        {
            return Ok(zero);
        }
        if self.ordinary.contains(&frame) {
            return Ok(false);
        }
        let mut bytes = [0; 8];
        self.flags
            .read_exact_at(&mut bytes, frame * 8)
            .map_err(failed(format!(
                "read what /proc/kpageflags says of frame {frame:#x} (at {address:#x})"
            )))?;
        let zero = u64::from_le_bytes(bytes) & KPF_ZERO_PAGE != 0;
        self.known = Some((frame, zero));
        if !zero {
            self.ordinary.insert(frame);
        }
        Ok(zero)
    }
}

fn push(runs: &mut Vec<FrameRun>, address: u64, frame: u64) {
    match runs.last_mut() {
        Some(run)
            if run.address + run.pages * PAGE_BYTES == address
                && run.frame + run.pages == frame =>
        {
            run.pages += 1
        }
        _ => runs.push(FrameRun {
            address,
            frame,
            pages: 1,
        }),
    }
}

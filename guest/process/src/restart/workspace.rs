//! A region of a stub at addresses that nobody uses: code, room for arguments, and a place for the
//! vDSO while it is moved.

use crate::arch::{HUGE_PAGE_BYTES, IDLE, PAGE_BYTES, SYSCALL, WORKSPACE_ADDRESSES};
use crate::error::Error;
use crate::image::Image;
use crate::inject::{Memory, Remote};
use crate::observe;

const ARGUMENTS_BYTES: u64 = 1 << 16;
const PARKING_BYTES: u64 = 1 << 18;
/// Room that is kept free around it, because stacks grow.
const MARGIN_BYTES: u64 = 16 << 20;
const STEP_BYTES: u64 = 0x4_1000_0000;
const IDLE_AT: u64 = 16;

/// The place of the region: the same address in all processes of an image.
#[derive(Clone, Copy, Debug)]
pub struct Workspace {
    start: u64,
}

impl Workspace {
    /// An address where neither this process, which a blank one is a copy of, nor any of the image
    /// has anything, and nothing for so many bytes behind it.
    pub fn choose(image: Option<&Image>, behind_bytes: u64) -> Result<Self, Error> {
        let own = observe::mappings(std::process::id() as i32)?;
        let mut taken: Vec<(u64, u64)> = own
            .iter()
            .map(|mapping| (mapping.start, mapping.end))
            .collect();
        taken.extend(image.into_iter().flat_map(used_by));
        let is_free = |start: u64| Self { start }.is_clear_of(&taken, behind_bytes);
        let mut candidates = WORKSPACE_ADDRESSES.step_by(STEP_BYTES as usize);
        let start = candidates
            .find(|start| is_free(*start))
            .ok_or(Error::BadImage("its processes use all addresses"))?;
        Ok(Self { start })
    }

    /// True if none of these ranges is at it, near it, or in so many bytes behind it.
    pub fn is_clear_of(self, taken: &[(u64, u64)], behind_bytes: u64) -> bool {
        let (low, high) = (
            self.start - MARGIN_BYTES,
            self.behind() + behind_bytes + MARGIN_BYTES,
        );
        taken
            .iter()
            .all(|(start, end)| *end <= low || high <= *start)
    }

    /// The address of the room behind it, at the start of a huge page.
    pub fn behind(self) -> u64 {
        (self.end() + MARGIN_BYTES).next_multiple_of(HUGE_PAGE_BYTES)
    }

    /// The address of the code by which a thread waits for ever.
    pub fn idle(self) -> u64 {
        self.start + IDLE_AT
    }

    /// Its size.
    pub const SIZE_BYTES: u64 = PAGE_BYTES + ARGUMENTS_BYTES + PARKING_BYTES;

    /// Its first address: that of a `syscall` instruction.
    pub fn start(self) -> u64 {
        self.start
    }

    /// Its end.
    pub fn end(self) -> u64 {
        self.start + Self::SIZE_BYTES
    }

    /// Room for what a system call reads or writes.
    pub fn arguments(self) -> u64 {
        self.start + PAGE_BYTES
    }

    /// The place for the vDSO while it is moved.
    pub fn parking(self) -> u64 {
        self.arguments() + ARGUMENTS_BYTES
    }

    /// Makes it, in a stub that can make system calls at its vDSO; from now on it makes them here.
    pub fn make(self, remote: &mut Remote, memory: &Memory) -> Result<(), Error> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        let len = Self::SIZE_BYTES - PARKING_BYTES;
        remote.call(
            "map a region",
            libc::SYS_mmap,
            &[self.start, len, protection, flags, u64::MAX, 0],
        )?;
        memory.write(self.start, &SYSCALL)?;
        memory.write(self.idle(), &IDLE)?;
        remote.set_syscall_at(self.start);
        Ok(())
    }

    /// Puts bytes where a system call can read them. Returns their address.
    pub fn put(self, memory: &Memory, bytes: &[u8]) -> Result<u64, Error> {
        if bytes.len() as u64 > ARGUMENTS_BYTES {
            return Err(Error::BadImage(
                "something in it is too long for a system call",
            ));
        }
        memory.write(self.arguments(), bytes)?;
        Ok(self.arguments())
    }
}

/// Addresses that the processes of an image use, as start and end.
pub fn used_by(image: &Image) -> impl Iterator<Item = (u64, u64)> {
    image.processes.iter().flat_map(|process| {
        let mappings = process
            .mappings
            .iter()
            .map(|mapping| (mapping.start, mapping.end));
        mappings.chain([(process.vdso, process.vdso + image.kernel.vdso_bytes)])
    })
}

//! Mappings at the guest's addresses: pool blocks behind frames, armed or not.

mod arm;
mod put;
mod scratch;

use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use nvvmm_snapshot::{ChunkIndex, ChunkNo, FaultPoint, FrameIndex, Pool, fault_point};

use self::scratch::Scratch;
pub(super) use self::scratch::Source;
use super::chunk::{KnownChunk, MappedRun};
use crate::{
    cow::{
        Budget, CHUNK_FRAMES, CHUNK_SIZE_BYTES, CowError, FRAME_SIZE_BYTES,
        error::{os, os_again},
    },
    memory::GuestRam,
    sys::{
        address_range::{AddressRange, Sharing},
        pagemap::{PageKind, Pagemap},
        patiently,
        uffd::Uffd,
    },
};

/// Guest RAM as addresses, and all calls to the kernel that change what is mapped there.
#[derive(Debug)]
pub(super) struct Mapping {
    ram: GuestRam,
    pool: Arc<Pool>,
    uffd: Uffd,
    pagemap: Pagemap,
    budget: Budget,
    /// Frames that are mapped, armed and copied as one: those of a page of the medium.
    unit_frames: u32,
    scratch: Scratch,
    /// True as long as one call may arm several mappings, as far as is known.
    crossing: AtomicBool,
}

impl Mapping {
    /// Registers all of `ram`: from now on every first touch of a chunk is held.
    pub fn new(ram: GuestRam, pool: Arc<Pool>, budget: Budget) -> Result<Self, CowError> {
        let uffd = Uffd::open()?;
        let reservation = ram.reservation();
        uffd.register_missing(reservation.start(), reservation.size_bytes())
            .map_err(os("hold first touches of guest RAM"))?;
        Ok(Self {
            uffd,
            pagemap: Pagemap::open().map_err(os("open /proc/self/pagemap"))?,
            unit_frames: (pool.medium().page_bytes() / FRAME_SIZE_BYTES as u64) as u32,
            ram,
            pool,
            budget,
            scratch: Scratch::default(),
            crossing: AtomicBool::new(true),
        })
    }

    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Chunks of guest RAM.
    pub fn chunks(&self) -> u32 {
        (self.reservation().size_bytes() / CHUNK_SIZE_BYTES) as u32
    }

    /// True if a chunk is one page of the medium (hugetlbfs).
    pub fn has_whole_chunks(&self) -> bool {
        self.unit_frames == CHUNK_FRAMES
    }

    /// True if each frame is a page of its own, which can be mapped alone.
    pub fn has_single_frames(&self) -> bool {
        self.unit_frames == 1
    }

    /// The frames that are mapped and armed together with `frame`.
    pub fn unit_of(&self, frame: FrameIndex) -> Range<u32> {
        aligned_around(frame, self.unit_frames)
    }

    /// Chunk and frame at a host address; `None` outside of guest RAM.
    pub fn frame_at(&self, address: usize) -> Option<(ChunkIndex, FrameIndex)> {
        let offset = address.checked_sub(self.reservation().start())?;
        let (index, frame) = (
            ChunkIndex::at_byte(offset as u64),
            FrameIndex::at_byte(offset as u64),
        );
        (offset < self.reservation().size_bytes()).then_some((index, frame))
    }

    /// Runs `work` on a chunk, and counts the mappings that the chunk takes more or less then.
    pub fn counted<T>(&self, known: &mut KnownChunk, work: impl FnOnce(&mut KnownChunk) -> T) -> T {
        let before = known.mappings_now();
        let result = work(known);
        self.budget.changed(before, known.mappings_now());
        result
    }

    /// Notes that all of a chunk is mapped now.
    pub fn note_mapped(&self, index: ChunkIndex, known: &mut KnownChunk) {
        known.note_mapped();
        fault_point(FaultPoint::RedirectChunkMapped);
        self.budget.chunk_mapped(index, self.chunks());
    }

    /// Maps a run of blocks. A private run is armed before anybody can count on that; see
    /// [`RedirectEngine::reconcile_unarmed_writes`](super::RedirectEngine).
    pub fn map_run(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        // Runs before this one may be mapped, so the chunk cannot stay as it is.
        patiently(|| self.show(index, run)).map_err(os("map blocks"))?;
        self.guard_run(index, run)
    }

    /// Maps a run of blocks, without registering it. This is the first half of
    /// [`Mapping::map_run`]: the guest sees and writes the blocks from here on.
    ///
    /// # Errors
    /// Nothing has changed for the guest. [`CowError::NoSpace`]: the kernel has no memory now.
    pub fn show_run(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        self.show(index, run).map_err(os_again("map blocks"))
    }

    /// Maps a private run, and leaves writes to the kernel's copy-on-write: the run is not
    /// registered.
    pub fn show_left(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        patiently(|| self.show(index, run)).map_err(os("map blocks"))
    }

    /// Maps `count` whole chunks of the pool, from `first` on, behind chunks of the guest, from
    /// `index` on, privately. Writes are left to the kernel's copy-on-write.
    pub fn show_left_chunks(
        &self,
        index: ChunkIndex,
        count: usize,
        first: ChunkNo,
    ) -> Result<(), CowError> {
        let (offset, size_bytes) = (ram_offset(index, 0), count * CHUNK_SIZE_BYTES);
        let map = || {
            let at = first.byte_offset();
            let (ram, pool) = (self.reservation(), self.pool.fd());
            ram.map_file(offset, size_bytes, pool, at, Sharing::Private)
        };
        patiently(map).map_err(os("map blocks"))
    }

    /// Pages of a mapped chunk that are in the page tables.
    pub fn present_pages(&self, index: ChunkIndex) -> Result<u32, CowError> {
        let start = self.reservation().start() + ram_offset(index, 0);
        self.pagemap
            .present(start, CHUNK_FRAMES as usize)
            .map_err(os("read pagemap"))
    }

    /// Fills the page tables of a mapped chunk, all of which is the VM's own, for writing.
    pub fn populate_own(&self, index: ChunkIndex) -> Result<(), CowError> {
        let (offset, size_bytes) = self.range(index, &(0..CHUNK_FRAMES));
        self.reservation()
            .populate_write(offset, size_bytes)
            .map_err(os("fill page tables"))
    }

    fn show(&self, index: ChunkIndex, run: &MappedRun) -> io::Result<()> {
        let sharing = if run.private {
            Sharing::Private
        } else {
            Sharing::Shared
        };
        let (offset, size_bytes) = self.range(index, &run.frames);
        self.reservation().map_file(
            offset,
            size_bytes,
            self.pool.fd(),
            run.block.byte_offset(),
            sharing,
        )
    }

    /// Registers a run that was mapped, and arms it if it is private. This is the second half of
    /// [`Mapping::map_run`].
    pub fn guard_run(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        self.register_run(index, run)?;
        if run.private {
            let (offset, size_bytes) = self.range(index, &run.frames);
            let start = self.reservation().start() + offset;
            patiently(|| self.uffd.protect(start, size_bytes, true)).map_err(os("arm blocks"))?;
        }
        Ok(())
    }

    /// Registers a new mapping. This is done at once: the next arming needs it, and mappings merge
    /// only when they are alike.
    pub fn register_run(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        let (offset, size_bytes) = self.range(index, &run.frames);
        let start = self.reservation().start() + offset;
        patiently(|| self.uffd.register_write_protect(start, size_bytes))
            .map_err(os("register blocks"))
    }

    /// Maps `count` whole chunks of the pool, from `first` on, behind chunks of the guest, from
    /// `index` on, and arms them. The guest does not run yet.
    pub fn map_armed(
        &self,
        index: ChunkIndex,
        count: usize,
        first: ChunkNo,
    ) -> Result<(), CowError> {
        let offset = ram_offset(index, 0);
        let size_bytes = count * CHUNK_SIZE_BYTES;
        let start = self.reservation().start() + offset;
        self.reservation()
            .map_file(
                offset,
                size_bytes,
                self.pool.fd(),
                first.byte_offset(),
                Sharing::Shared,
            )
            .map_err(os("map a snapshot"))?;
        self.uffd
            .register_write_protect(start, size_bytes)
            .map_err(os("register a snapshot"))?;
        self.uffd
            .protect(start, size_bytes, true)
            .map_err(os("arm a snapshot"))
            .inspect(|()| fault_point(FaultPoint::RedirectOriginMapped))
    }

    /// Writes frames, as the guest sees them, to the blocks of `run`. The frames are armed.
    pub fn copy_run(&self, index: ChunkIndex, run: &MappedRun) -> Result<(), CowError> {
        let (offset, size_bytes) = self.range(index, &run.frames);
        self.reservation()
            .copy_to_file(offset, size_bytes, self.pool.fd(), run.block.byte_offset())
            .map_err(os_again("copy frames"))
    }

    /// Frames of a private, armed mapping that were written before it was armed.
    ///
    /// Such a write left a page of this process, which pagemap shows. Where pagemap is unclear, a
    /// frame may be listed that was not written: to copy it costs a block and nothing else.
    pub fn written_while_unarmed(
        &self,
        index: ChunkIndex,
        frames: Range<u32>,
    ) -> Result<Vec<FrameIndex>, CowError> {
        let (offset, _) = self.range(index, &frames);
        let read = || {
            self.pagemap
                .pages(self.reservation().start() + offset, frames.len())
                .map_err(os("read pagemap"))
        };
        let mut pages = read()?;
        if pages.contains(&PageKind::Unclear) {
            self.populate(index, &frames)?;
            pages = read()?;
        }
        let written = FrameIndex::range(frames)
            .zip(pages)
            .filter(|(_, page)| *page != PageKind::Untouched);
        Ok(written.map(|(frame, _)| frame).collect())
    }

    /// Fills the page tables of frames for reading.
    pub fn populate(&self, index: ChunkIndex, frames: &Range<u32>) -> Result<(), CowError> {
        let (offset, size_bytes) = self.range(index, frames);
        self.reservation()
            .populate_read(offset, size_bytes)
            .map_err(os("fill page tables"))
    }

    /// Empties the page tables of frames, all of which are mapped shared, or show nothing.
    pub fn drop_page_tables(&self, index: ChunkIndex, frames: &Range<u32>) -> Result<(), CowError> {
        let (offset, size_bytes) = self.range(index, frames);
        self.reservation()
            .drop_page_tables(offset, size_bytes)
            .map_err(os("empty page tables"))
    }

    /// Arms frames, all of which are mapped.
    pub fn arm(&self, index: ChunkIndex, frames: &Range<u32>) -> io::Result<()> {
        let (offset, size_bytes) = self.range(index, frames);
        self.protect(self.reservation().start() + offset, size_bytes, true)
    }

    /// Disarms frames, all of which are mapped.
    pub fn disarm(&self, index: ChunkIndex, frames: &Range<u32>) -> io::Result<()> {
        let (offset, size_bytes) = self.range(index, frames);
        self.protect(self.reservation().start() + offset, size_bytes, false)
    }

    /// Wakes all who wait for an answer about a chunk.
    pub fn wake(&self, index: ChunkIndex) -> Result<(), CowError> {
        self.uffd
            .wake(
                self.reservation().start() + ram_offset(index, 0),
                CHUNK_SIZE_BYTES,
            )
            .map_err(os("wake a held access"))
    }

    /// Wakes all who wait for an answer about a chunk, of which nobody was told yet.
    pub fn wake_if_any(&self, index: ChunkIndex) -> Result<(), CowError> {
        let start = self.reservation().start() + ram_offset(index, 0);
        self.uffd
            .wake_if_any(start, CHUNK_SIZE_BYTES)
            .map_err(os("wake a held access"))
    }

    fn reservation(&self) -> &AddressRange {
        self.ram.reservation()
    }

    /// RAM offset and size of frames of a chunk, in bytes.
    fn range(&self, index: ChunkIndex, frames: &Range<u32>) -> (usize, usize) {
        (
            ram_offset(index, frames.start),
            frames.len() * FRAME_SIZE_BYTES,
        )
    }
}

fn ram_offset(index: ChunkIndex, frame: impl Into<FrameIndex>) -> usize {
    (index.byte_offset() + frame.into().byte_offset()) as usize
}

/// The aligned frames around `frame`, `size_frames` (a power of two) of them.
pub(super) fn aligned_around(frame: FrameIndex, size_frames: u32) -> Range<u32> {
    let start = frame.get() & !(size_frames - 1);
    start..start + size_frames
}

//! Writes that a commit brings to its medium, in their order, noted down by a double of the CPU's
//! caches and the kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::write_back::{OfThisHost, WriteBack};
use super::super::{Medium, Region};
use super::{DurableBy, MappedRegion};
use crate::layout::Layout;
use crate::{
    BLOCK_SIZE_BYTES, ChunkIndex, ChunkMap, Error, Holder, LeafBlocks, NewMap, NewSnapshot, Pool,
    SnapshotKind,
};

const SIZE: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Cache lines of a range of the pool.
    Lines(u64, u64),
    Drain,
    Sync,
}

/// Events so far, and the bytes that a power cut would leave.
struct Noted {
    base: usize,
    events: Vec<Event>,
    /// Bytes of lines that are on their way.
    pending: Vec<(u64, Vec<u8>)>,
    durable: Vec<u8>,
    syncs_fail: bool,
}

#[derive(Clone)]
struct Recorder(Arc<Mutex<Noted>>);

impl Recorder {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap()
    }
}

impl WriteBack for Recorder {
    unsafe fn lines(&self, start: *const u8, len: usize) {
        // SAFETY: the caller says that the range is mapped.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) }.to_vec();
        let mut noted = self.noted();
        let offset = (start.addr() - noted.base) as u64;
        noted.events.push(Event::Lines(offset, len as u64));
        noted.pending.push((offset, bytes));
    }

    fn drain(&self) {
        let mut noted = self.noted();
        noted.events.push(Event::Drain);
        for (offset, bytes) in std::mem::take(&mut noted.pending) {
            noted.durable[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut noted = self.noted();
        if noted.syncs_fail {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        noted.events.push(Event::Sync);
        file.read_exact_at(&mut noted.durable, 0)
    }
}

/// A pool on a file in memory that is taken for another medium.
struct Bench {
    file: tempfile::NamedTempFile,
    recorder: Recorder,
    pool: Arc<Pool>,
}

impl Bench {
    fn new(medium: Medium, durable_by: DurableBy) -> Bench {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let opened = || {
            File::options()
                .read(true)
                .write(true)
                .open(file.path())
                .unwrap()
        };
        let mut region = MappedRegion::map(opened(), SIZE, medium, false).unwrap();
        let recorder = Recorder(Arc::new(Mutex::new(Noted {
            base: region.at(0, 0).unwrap().addr(),
            events: Vec::new(),
            pending: Vec::new(),
            durable: vec![0; SIZE as usize],
            syncs_fail: false,
        })));
        region.durable_by = durable_by;
        region.write_back = Box::new(recorder.clone());
        crate::pool::format(&region, &Layout::for_size(SIZE).unwrap(), [7; 16], false).unwrap();
        let pool =
            Pool::open_on(Box::new(region), opened(), Path::new("recorded"), medium).unwrap();
        Bench {
            file,
            recorder,
            pool,
        }
    }

    /// Commits a snapshot of one frame that somebody else stored, not the region.
    fn commit(&self, holder: &Holder, name: &str) -> Result<(), Error> {
        let block = holder.alloc_blocks(1)?[0];
        let frame = [name.len() as u8; BLOCK_SIZE_BYTES as usize];
        // Half through the pool, half past it.
        holder.write_block(block, &frame[..2048])?;
        self.file
            .as_file()
            .write_all_at(&frame[2048..], block.byte_offset() + 2048)
            .unwrap();
        let mut leaf = LeafBlocks::new();
        leaf.set(9, Some(block));
        let changes = [(ChunkIndex::new(0), ChunkMap::Frames(Arc::new(leaf)))];
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: None,
            base: None,
            maps: vec![NewMap::memory(2 << 20, &changes)],
            state: b"state",
            frames_new: 1,
        };
        let id = holder.commit_snapshot(new, holder.reserve(0)?)?.id;
        holder.unpin(id)
    }

    /// The pool that is found when the power comes back.
    fn after_power_cut(&self) -> (tempfile::NamedTempFile, Arc<Pool>) {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file()
            .write_all_at(&self.recorder.noted().durable, 0)
            .unwrap();
        let pool = Pool::open(file.path()).unwrap();
        (file, pool)
    }
}

fn assert_kept(pool: &Arc<Pool>, names: &[&str]) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let found: Vec<String> = pool
        .snapshots()
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(found, names);
    let reader = pool.hold("reader").unwrap();
    for name in names {
        let (entry, map) = reader.pin(name).unwrap();
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        pool.read_block(map.chunk(0).unwrap().block(9).unwrap(), &mut bytes)
            .unwrap();
        assert_eq!(
            bytes,
            [name.len() as u8; BLOCK_SIZE_BYTES as usize],
            "{name}"
        );
        reader.unpin(entry.id).unwrap();
    }
}

fn commits_outlive_a_power_cut(medium: Medium, durable_by: DurableBy) {
    let bench = Bench::new(medium, durable_by);
    let holder = bench.pool.hold("vm").unwrap();
    for (count, name) in ["a", "bb", "ccc"].into_iter().enumerate() {
        bench.commit(&holder, name).unwrap();
        assert_kept(&bench.after_power_cut().1, &["a", "bb", "ccc"][..=count]);
    }
    bench.pool.remove("bb").unwrap();
    assert_kept(&bench.after_power_cut().1, &["a", "ccc"]);
}

#[test]
fn commits_outlive_a_power_cut_where_cache_lines_are_written_back() {
    commits_outlive_a_power_cut(Medium::Devdax, DurableBy::CacheLines);
}

#[test]
fn commits_outlive_a_power_cut_where_the_kernel_writes() {
    commits_outlive_a_power_cut(Medium::File, DurableBy::Sync);
    commits_outlive_a_power_cut(Medium::Fsdax, DurableBy::Sync);
}

#[test]
fn commits_outlive_a_power_cut_on_a_dax_file() {
    commits_outlive_a_power_cut(Medium::Fsdax, DurableBy::CacheLines);
}

#[test]
fn on_a_dax_file_the_file_system_is_asked_for_frames_and_not_for_metadata() {
    let bench = Bench::new(Medium::Fsdax, DurableBy::CacheLines);
    let holder = bench.pool.hold("vm").unwrap();
    let events_of = |step: &dyn Fn()| {
        bench.recorder.noted().events.clear();
        step();
        bench.recorder.noted().events.clone()
    };
    let commit = events_of(&|| bench.commit(&holder, "kept").unwrap());
    let syncs: Vec<usize> = (0..commit.len())
        .filter(|at| commit[*at] == Event::Sync)
        .collect();
    let superblock = commit.iter().position(
        |event| matches!(event, Event::Lines(offset, _) if *offset < 2 * BLOCK_SIZE_BYTES),
    );
    assert_eq!(syncs.len(), 1, "{commit:?}");
    assert!(superblock.is_some_and(|at| at > syncs[0]), "{commit:?}");
    assert_eq!(commit.last(), Some(&Event::Drain));

    let removal = events_of(&|| {
        bench.pool.remove("kept").unwrap();
    });
    assert!(
        removal.contains(&Event::Drain) && !removal.contains(&Event::Sync),
        "{removal:?}"
    );
}

#[test]
fn memory_of_the_host_is_not_flushed() {
    let bench = Bench::new(Medium::Tmpfs, DurableBy::Nothing);
    bench.commit(&bench.pool.hold("vm").unwrap(), "a").unwrap();
    assert_eq!(bench.recorder.noted().events, []);
}

#[test]
fn after_a_failed_write_nothing_is_called_durable_any_more() {
    let bench = Bench::new(Medium::File, DurableBy::Sync);
    let holder = bench.pool.hold("vm").unwrap();
    bench.commit(&holder, "before").unwrap();
    bench.recorder.noted().syncs_fail = true;
    let failed = |name: &str| bench.commit(&holder, name).unwrap_err().to_string();
    assert!(failed("lost").contains("writing the pool to its medium"));
    bench.recorder.noted().syncs_fail = false;
    let error = failed("refused");
    assert!(
        error.contains("earlier write") && error.contains("opened again"),
        "{error}"
    );
    assert_eq!(bench.pool.snapshots().unwrap().len(), 1);
}

#[test]
fn lines_of_any_range_can_be_written_back() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(SIZE).unwrap();
    let mut region = MappedRegion::map(file, SIZE, Medium::Devdax, false).unwrap();
    region.write_back = Box::new(OfThisHost::new());
    let pattern: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
    for (offset, len) in [
        (0, 1),
        (63, 2),
        (4095, 10_000),
        (SIZE - 1, 1),
        (SIZE - 10_000, 10_000),
        (SIZE, 0),
    ] {
        region.write(offset, &pattern[..len]).unwrap();
        region.flush(offset, len as u64).unwrap();
        region.fence().unwrap();
        let mut found = vec![0; len];
        region.read(offset, &mut found).unwrap();
        assert_eq!(found, pattern[..len]);
    }
    region.flush(0, SIZE).unwrap();
    assert!(region.flush(SIZE, 1).is_err());
}

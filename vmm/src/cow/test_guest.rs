//! A guest without a KVM: threads of a test write its memory, as its vCPUs and as its devices, over
//! a real pool.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nvvmm_snapshot::{
    ChunkIndex, CreateOptions, FrameIndex, FrameSet, Holder, NewMap, NewSnapshot, Pool,
    Reservation, SnapshotId, SnapshotKind,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestRegionCollection, bitmap::Bitmap};

use crate::{
    cow::*,
    memory::{GuestMemory, GuestRam, PoolRegion, WriteLog, WrittenFrames},
    stats::Phases,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const FRAME: u64 = FRAME_SIZE_BYTES as u64;

/// File of a test's pool. The file is removed when this is dropped.
pub(crate) struct PoolFile {
    pub path: PathBuf,
}

impl PoolFile {
    pub fn new(name: &str) -> Self {
        Self::on(Path::new("/dev/shm"), name)
    }

    pub fn on(directory: &Path, name: &str) -> Self {
        Self {
            path: directory.join(format!("nvvmm-cow-{name}-{}.pool", std::process::id())),
        }
    }
}

impl Drop for PoolFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// An engine that a test VM can have.
pub(crate) trait Playable: CowEngine + Debug + Sized + 'static {
    /// Takes charge of new RAM.
    fn take_charge(
        size_bytes: u64,
        pool: &Arc<Pool>,
        holder: &Arc<Holder>,
        origin: RamOrigin,
        budget: Budget,
    ) -> Self;

    /// Blocks of the VM that are in no snapshot.
    fn own_blocks(&self) -> u64;

    /// Arms ahead of a snapshot, however little there is to arm.
    fn arm_few_ahead(&self) {}

    /// Gives unused blocks back until the VM holds no more than `bound` of them.
    fn give_back_unused(&self, bound: u64);
}

impl Playable for RedirectEngine {
    fn take_charge(
        size_bytes: u64,
        pool: &Arc<Pool>,
        holder: &Arc<Holder>,
        origin: RamOrigin,
        budget: Budget,
    ) -> Self {
        let ram = GuestRam::reserve(size_bytes).unwrap();
        let techniques = Techniques::from_environment().unwrap();
        Self::new(
            ram,
            Arc::clone(pool),
            Arc::clone(holder),
            origin,
            budget,
            techniques,
        )
        .unwrap()
    }

    fn own_blocks(&self) -> u64 {
        self.counters().frames_own
    }

    fn arm_few_ahead(&self) {
        self.arm_all_ahead().unwrap();
    }

    fn give_back_unused(&self, bound: u64) {
        self.give_back(bound).unwrap();
    }
}

impl Playable for PrivateEngine {
    fn take_charge(
        size_bytes: u64,
        pool: &Arc<Pool>,
        holder: &Arc<Holder>,
        origin: RamOrigin,
        budget: Budget,
    ) -> Self {
        let ram = GuestRam::reserve_noting_writes(size_bytes).unwrap();
        Self::new(ram, Arc::clone(pool), Arc::clone(holder), origin, budget).unwrap()
    }

    fn own_blocks(&self) -> u64 {
        self.blocks_held()
    }

    /// Between snapshots it holds nothing, and for one it fills chunk after chunk.
    fn give_back_unused(&self, _bound: u64) {}
}

/// KVM's dirty log, as far as the vCPUs of a test keep it. RAM is one slot.
#[derive(Debug)]
pub(crate) struct PlayedLog {
    frames: WrittenFrames,
    words: usize,
    /// Makes the next reading of the log fail.
    pub broken: std::sync::atomic::AtomicBool,
}

impl PlayedLog {
    fn new(size_bytes: u64) -> Self {
        Self {
            frames: WrittenFrames::new(size_bytes),
            words: (size_bytes / FRAME) as usize / u64::BITS as usize,
            broken: Default::default(),
        }
    }

    fn words(&self, chunks: impl Iterator<Item = (ChunkIndex, FrameSet)>) -> Vec<u64> {
        let mut words = vec![0; self.words];
        for (index, frames) in chunks {
            for frame in frames.places() {
                let bit = index.frame_number(frame) as usize;
                words[bit / 64] |= 1 << (bit % 64);
            }
        }
        words
    }
}

impl WriteLog for PlayedLog {
    fn peek_slot(&self, slot: usize) -> io::Result<Vec<u64>> {
        assert_eq!(slot, 0);
        Ok(self.words(self.frames.peek()))
    }

    fn take_slot(&self, slot: usize) -> io::Result<Vec<u64>> {
        assert_eq!(slot, 0);
        if self
            .broken
            .swap(false, std::sync::atomic::Ordering::Relaxed)
        {
            return Err(io::Error::other("the log is broken"));
        }
        Ok(self.words(self.frames.take()))
    }
}

pub(crate) struct Vm<E> {
    /// Memory as vCPUs write it: nothing is noted.
    vcpu: GuestMemory,
    /// Memory as devices write it.
    devices: Arc<GuestMemory>,
    pub log: PlayedLog,
    pub engine: Arc<E>,
    pub holder: Arc<Holder>,
    pub last: Option<SnapshotId>,
    pub faults: FaultThread,
}

impl<E: Playable> Vm<E> {
    pub fn start(pool: &Arc<Pool>, size_bytes: u64, from: Option<&str>) -> Self {
        let techniques = Techniques::from_environment().unwrap();
        Self::with_budget(pool, size_bytes, from, Budget::of(techniques.copy_policy))
    }

    pub fn with_budget(
        pool: &Arc<Pool>,
        size_bytes: u64,
        from: Option<&str>,
        budget: Budget,
    ) -> Self {
        let holder = Arc::new(pool.hold("test").unwrap());
        let (origin, last) = match from {
            None => (RamOrigin::Empty, None),
            Some(name) => {
                let (entry, frames) = holder.pin(name).unwrap();
                (
                    RamOrigin::Snapshot {
                        frames,
                        frames_mapped: entry.frames_mapped,
                    },
                    Some(entry.id),
                )
            }
        };
        let engine = Arc::new(E::take_charge(size_bytes, pool, &holder, origin, budget));
        let faults = FaultThread::start(Arc::clone(&engine) as Arc<dyn CowEngine>, |e| {
            panic!("fault thread: {e}")
        })
        .unwrap();
        let reservation = Arc::clone(engine.ram().reservation());
        let region =
            PoolRegion::new(reservation, 0, size_bytes as usize, GuestAddress(0), None).unwrap();
        Self {
            vcpu: GuestRegionCollection::from_regions(vec![region]).unwrap(),
            devices: Arc::clone(engine.ram().memory()),
            log: PlayedLog::new(size_bytes),
            engine,
            holder,
            last,
            faults,
        }
    }

    pub fn snapshot(&mut self, name: &str) -> nvvmm_snapshot::Result<()> {
        let taken = self.try_snapshot(name);
        if taken.is_err() {
            self.engine.drop_copies();
        }
        taken
    }

    fn try_snapshot(&mut self, name: &str) -> nvvmm_snapshot::Result<()> {
        let (reservation, room) = self.prepare()?;
        let set = self.share_and_arm(room);
        self.commit(name, set, reservation)
    }

    /// Prepares a snapshot: takes blocks for its metadata, and for what is left to be copied.
    pub fn prepare(&self) -> nvvmm_snapshot::Result<(Reservation, Reservation)> {
        let ahead = match self.copy_ahead() {
            Ok(ahead) => ahead,
            Err(CowError::NoSpace(_)) => {
                return Err(nvvmm_snapshot::Error::PoolFull { needed: 1, free: 0 });
            }
            Err(other) => panic!("{other}"),
        };
        let mut reservation = self.holder.reserve(16 + ahead.room_blocks)?;
        let room = reservation.split_off(ahead.room_blocks);
        Ok((reservation, room))
    }

    /// Copies ahead of a snapshot.
    pub fn copy_ahead(&self) -> Result<CopiedAhead, CowError> {
        self.engine.copy_ahead(&self.log, &mut Phases::begin())
    }

    /// The instant of a snapshot.
    pub fn share_and_arm(&self, room: Reservation) -> ShareSet {
        self.try_share(room).unwrap()
    }

    /// Tries the instant of a snapshot.
    pub fn try_share(&self, mut room: Reservation) -> Result<ShareSet, CowError> {
        let still = self.engine.stand_still();
        let phases = &mut Phases::begin();
        still.copy_rest(&self.log, &mut room, phases)?;
        let set = still.share()?;
        still.arm(&set, phases)?;
        Ok(set)
    }

    pub fn commit(
        &mut self,
        name: &str,
        set: ShareSet,
        reservation: Reservation,
    ) -> nvvmm_snapshot::Result<()> {
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: self.last,
            base: self.last,
            maps: vec![NewMap::memory(
                self.engine.ram().size_bytes(),
                set.changes(),
            )],
            state: b"state",
            frames_new: set.frames_new(),
        };
        match self.holder.commit_snapshot(new, reservation) {
            Ok(committed) => {
                self.last = Some(committed.id);
                self.holder.unpin_others(committed.id)
            }
            Err(error) => {
                self.engine.roll_back(set);
                Err(error)
            }
        }
    }

    /// Goes back to a snapshot, in place. The blocks that it replaces are still to be freed.
    pub fn rewind(&mut self, name: &str) -> nvvmm_snapshot::Result<()> {
        let (entry, frames) = self.holder.pin(name)?;
        let base = self.last.map(|id| self.holder.frame_map(id)).transpose()?;
        let to = RewindTo::new(frames, entry.frames_mapped, base.as_ref()).unwrap();
        self.engine.rewind(to, &self.log).unwrap();
        self.last = Some(entry.id);
        self.holder.unpin_others(entry.id)
    }

    /// A write: of a vCPU to frames of even number, of a device to the others.
    pub fn write_word(&self, value: u64, at: GuestAddress) {
        if (at.0 / FRAME).is_multiple_of(2) {
            self.vcpu_write(value, at);
        } else {
            self.devices.write_obj(value, at).unwrap();
        }
    }

    pub fn vcpu_write(&self, value: u64, at: GuestAddress) {
        self.vcpu.write_obj(value, at).unwrap();
        self.log.frames.mark_dirty(at.0 as usize, size_of::<u64>());
    }

    /// Loses what the vCPUs' log has; how many frames.
    pub fn lose_log(&self) -> u32 {
        let words = self.log.take_slot(0).unwrap();
        words.iter().map(|word| word.count_ones()).sum()
    }

    /// A device says that it has written to a frame, and has not: its disk failed.
    pub fn write_nothing(&self, frame: u64) {
        let slice = self
            .devices
            .get_slice(GuestAddress(frame * FRAME), 1)
            .unwrap();
        slice.bitmap().mark_dirty(0, 1);
    }

    pub fn read_word(&self, at: GuestAddress) -> u64 {
        self.devices.read_obj(at).unwrap()
    }

    pub fn write(&self, frame: u64, value: u64) {
        self.write_word(value, word_of(frame));
        // The write may go on as soon as the new mapping is there; the engine has counted it when
        // it lets go of the chunk.
        self.engine
            .own_block(ChunkIndex::at_byte(frame * FRAME), FrameIndex::FIRST);
    }

    pub fn read(&self, frame: u64) -> u64 {
        self.read_word(word_of(frame))
    }

    pub fn fill(&self, frames: impl Iterator<Item = u64>, seed: u64) {
        frames.for_each(|frame| self.write(frame, seed + frame));
    }

    pub fn assert_filled(&self, frames: impl Iterator<Item = u64>, seed: u64) {
        for frame in frames {
            assert_eq!(self.read(frame), seed + frame, "frame {frame}");
        }
    }

    /// Lines of /proc/self/maps within guest RAM.
    pub fn mappings_of_the_kernel(&self) -> u64 {
        let reservation = self.engine.ram().reservation();
        let ram = reservation.start()..reservation.start() + reservation.size_bytes();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let starts = maps
            .lines()
            .filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
        starts.filter(|start| ram.contains(start)).count() as u64
    }
}

/// Address of the word that tests write in a frame.
fn word_of(frame: u64) -> GuestAddress {
    GuestAddress(frame * FRAME + 8 * (frame % 500))
}

pub(crate) fn pool_of(place: &PoolFile, size_bytes: u64) -> Arc<Pool> {
    Pool::create(
        &place.path,
        &CreateOptions {
            size_bytes,
            overcommit: false,
        },
    )
    .unwrap()
}

pub(crate) fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

/// VMs hold the blocks of their own frames and no other: what they gave up is back in the pool.
pub(crate) fn assert_hold_their_own<E: Playable>(pool: &Pool, vms: &[&Vm<E>]) {
    for vm in vms {
        vm.engine.free_replaced();
        while vm.engine.tidy().unwrap() {}
        // What is kept for copies goes when it was not used since the last look.
        for _ in 0..2 {
            vm.holder.give_back_stale().unwrap();
        }
    }
    let own: u64 = vms.iter().map(|vm| vm.engine.own_blocks()).sum();
    let status = pool.status().unwrap();
    let held: u64 = status
        .holders
        .iter()
        .map(|holder| u64::from(holder.blocks_in_use))
        .sum();
    assert_eq!(held, own, "{status:#?}");
}

/// A VM from snapshot `name`, which it consumes.
pub(crate) fn consuming<E: Playable>(pool: &Arc<Pool>, size_bytes: u64, name: &str) -> Vm<E> {
    let mut vm = Vm::<E>::start(pool, size_bytes, Some(name));
    let consumed = vm.holder.consume(vm.last.unwrap()).unwrap();
    vm.last = consumed.rest;
    vm.engine.take_over(consumed).unwrap();
    vm
}

/// Takes every block that others do not hold.
pub(crate) fn ballast(pool: &Arc<Pool>) -> Holder {
    let ballast = pool.hold("ballast").unwrap();
    while ballast.take_blocks(64).is_ok() {}
    while ballast.take_blocks(1).is_ok() {}
    ballast
}

/// A promise of both engines: the map of a snapshot that is gone still tells what a chunk holds
/// that nobody has touched.
pub(crate) fn untouched_chunks_outlive_their_snapshot<E: Playable>(place: &PoolFile) {
    let pool = pool_of(place, 128 * MIB);
    // Large enough for a frame map with inner nodes on two levels.
    let size = 2048 * MIB;
    let far = [0u64, 700, 300 * 512, 301 * 512, 900 * 512];
    let mut vm = Vm::<E>::start(&pool, size, None);
    far.iter().for_each(|frame| vm.write(*frame, frame + 1));
    vm.snapshot("s0").unwrap();
    drop(vm);
    let mut vm = Vm::<E>::start(&pool, size, Some("s0"));
    for (round, frame) in far.iter().enumerate().rev() {
        assert_eq!(vm.read(*frame), frame + 1, "frame {frame} in round {round}");
        vm.write(*frame, 1_000_000);
        let name = format!("t{round}");
        vm.snapshot(&name).unwrap();
        for other in pool.snapshots().unwrap() {
            if other.name != name {
                pool.remove(&other.name).unwrap();
            }
        }
        assert_clean(&pool);
    }
}

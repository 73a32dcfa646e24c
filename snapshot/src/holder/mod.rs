//! Holders: processes that use a pool's blocks.

mod commit;
mod consume;
mod disks;
pub(crate) mod lease;
mod leasing;
mod stale;
mod unused;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(crate) use commit::Provenance;
pub use commit::{Committed, NewMap, NewSnapshot};
pub use consume::{Consumed, ConsumedChunk, ConsumedMap};
pub(crate) use disks::{DiskFold, disk_blocks_needed};
pub use stale::ChunkForCopy;
pub use unused::Vacating;

use self::lease::Leases;
use self::stale::Stale;
use crate::catalog::Listed;
use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::identity::Identity;
use crate::layout::HOLDER_SLOTS;
use crate::layout::holder_slot::{HolderSlotV1, PINS_MAX, PINS_MAX_OF_OTHERS};
use crate::layout::inode::{Inode, SnapshotKind};
use crate::name::check_name;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, ChunkNo, FrameIndex, SnapshotId};
use crate::pool::SnapshotEntry;
use crate::random::fill_random;
use crate::recovery::reclaim_dead_holders;

/// A user of a pool's blocks, as a rule one VM: what it has leased and pinned is its own until it
/// drops the holder or its process dies, however that happens.
pub struct Holder {
    leases: Arc<Leases>,
    pool: Arc<Pool>,
    slot: u32,
    name: String,
    stale: Stale,
    /// Uses of disks, which have to end before the holder does.
    attached: Mutex<Vec<Weak<dyn Attached>>>,
    /// True when all that it commits is foreign, whatever the base.
    foreign: AtomicBool,
    /// The lock that says that the holder lives. It must be dropped last.
    _alive: Alive,
}

/// A use of a disk by a holder.
pub(crate) trait Attached: Send + Sync {
    /// Ends the use in order. Calls after the first do nothing.
    fn end(&self) -> Result<()>;
}

/// An opening of the pool whose lock says that a holder lives.
struct Alive {
    pool: Arc<Pool>,
    slot: u32,
    file: Option<File>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        // A lock that cannot be given back ends with the file.
        if let Some(file) = self.file.take()
            && file_lock::unlock(&file, LockPlace::Holder(self.slot)).is_ok()
        {
            self.pool.spare_files.give_back(file);
        }
    }
}

impl Pool {
    /// Becomes a holder.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::TooManyHolders`], and what recovering dead holders' blocks
    /// may bring.
    pub fn hold(self: &Arc<Self>, name: &str) -> Result<Holder> {
        check_name(name)?;
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let alive = self.spare_files.take(self.file(), self.path())?;
        for slot in 0..HOLDER_SLOTS {
            if self.store.holder_slot_is_used(slot)?
                || !file_lock::try_lock(&alive, LockPlace::Holder(slot), LockMode::Exclusive)?
            {
                continue;
            }
            let mut content = HolderSlotV1::used(std::process::id(), process_start_ticks(), name);
            content.nonce = random_nonce()?.into();
            fault_point(FaultPoint::HoldLocked);
            self.store.set_holder_slot(slot, &content)?;
            fault_point(FaultPoint::HoldUsed);
            let leases = Arc::new(Leases::new(Arc::clone(self), slot));
            return Ok(Holder {
                leases,
                pool: Arc::clone(self),
                slot,
                name: name.to_owned(),
                stale: Stale::default(),
                attached: Mutex::default(),
                foreign: AtomicBool::new(false),
                _alive: Alive {
                    pool: Arc::clone(self),
                    slot,
                    file: Some(alive),
                },
            });
        }
        Err(Error::TooManyHolders {
            count: HOLDER_SLOTS,
        })
    }
}

/// Tells a holder of a slot from the next one of the same slot. Never 0.
fn random_nonce() -> Result<u32> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes).max(1))
}

/// The start of this process, in clock ticks after boot: field 22 of proc_pid_stat(5), 0 when it
/// cannot be read.
fn process_start_ticks() -> u64 {
    // A process may be confined when it makes its next holder. A forked one has another number.
    static KNOWN: Mutex<Option<(u32, u64)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some((process, ticks)) if process == std::process::id() => ticks,
        _ => known.insert((std::process::id(), read_start_ticks())).1,
    }
}

fn read_start_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces; fields are counted from behind its closing parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or(0)
}

/// Blocks that were taken ahead: for the metadata of a commit, or for frames. Drop gives the unused
/// ones back.
pub struct Reservation {
    leases: Arc<Leases>,
    /// With memory behind them.
    blocks: Vec<BlockNo>,
    /// Nobody else can have them, but the medium was not asked for their memory yet.
    promised: Vec<BlockNo>,
}

impl Reservation {
    /// Number of reserved blocks with memory behind them.
    pub fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    fn all(&self) -> impl Iterator<Item = BlockNo> + '_ {
        self.blocks.iter().chain(&self.promised).copied()
    }

    /// Has `count` blocks with memory behind them, as far as what is promised allows.
    fn redeem(&mut self, count: u32) -> Result<()> {
        let missing = (count as usize).saturating_sub(self.blocks.len());
        let first = self.promised.len().saturating_sub(missing);
        self.leases.provide(&self.promised[first..])?;
        self.blocks.extend(self.promised.drain(first..));
        Ok(())
    }

    /// Parts with up to `blocks` of them, as a reservation of their own.
    pub fn split_off(&mut self, blocks: u32) -> Reservation {
        let rest = self.blocks.len().saturating_sub(blocks as usize);
        Reservation {
            leases: Arc::clone(&self.leases),
            blocks: self.blocks.split_off(rest),
            promised: Vec::new(),
        }
    }

    /// Up to `blocks` of them, lowest first, which the holder then has as if from
    /// [`Holder::alloc_blocks`].
    pub fn take(&mut self, blocks: u32) -> Vec<BlockNo> {
        let count = self.blocks.len().min(blocks as usize);
        self.blocks.drain(..count).collect()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.leases.free(&self.blocks);
        if self.leases.pool.overcommit() {
            self.leases.free(&self.promised);
        } else {
            // Nothing was ever in them.
            self.leases.release(&self.promised);
        }
    }
}

impl Holder {
    /// The holder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows others this name from now on. It is for people: nothing is found by it.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Io`].
    pub fn show_name(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let _lock = CatalogLock::take(&self.pool)?;
        self.pool.store.set_holder_name(self.slot, name)
    }

    /// The holder's slot.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Marks all that this holder commits from now on as foreign. Pinning a foreign snapshot of a
    /// VM does the same: the holder is a VM that goes on from it.
    pub fn mark_foreign(&self) {
        self.foreign.store(true, Ordering::Relaxed);
    }

    /// True when all that this holder commits is foreign.
    pub fn is_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    /// Finds a snapshot by name and pins it: until it is unpinned, its blocks stay, also when it is
    /// removed. Gives its entry and the map of its memory. Pinning what this holder has pinned
    /// already changes nothing. The entry's own and shared sizes are not counted.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Incomplete`]; [`Error::TooManyPins`] when the holder pins
    /// eleven snapshots: a twelfth can only be one that it takes of its VM, so that it can
    /// always take one and then [unpin the others](Holder::unpin_others).
    pub fn pin(&self, name: &str) -> Result<(SnapshotEntry, FrameMap)> {
        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        let Some(listed) = listing.by_name(name) else {
            return Err(self.pool.not_found(name, &listing));
        };
        let inode = listed.complete()?;
        self.set_pin(inode.id, PINS_MAX_OF_OTHERS)?;
        if inode.foreign && inode.kind == SnapshotKind::Vm {
            self.mark_foreign();
        }
        fault_point(FaultPoint::PinSet);
        let map = FrameMap::of_memory(&self.pool, inode)?;
        Ok((SnapshotEntry::of(inode), map))
    }

    /// Pins what there is now of a snapshot of this identity that arrives under a name. Blocks that
    /// an earlier version of it had, the newer one has in the same places.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed, or there is another one of that name.
    pub fn pin_arriving(
        &self,
        name: &str,
        identity: Option<Identity>,
    ) -> Result<(SnapshotEntry, FrameMap)> {
        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        let is_it = |listed: &&Listed| identity.is_none_or(|of| of == listed.inode.identity);
        let Some(listed) = listing.by_name(name).filter(is_it) else {
            return Err(self.pool.not_found(name, &listing));
        };
        let inode = &listed.inode;
        self.set_pin(inode.id, PINS_MAX)?;
        if inode.foreign && inode.kind == SnapshotKind::Vm {
            self.mark_foreign();
        }
        fault_point(FaultPoint::ArrivingPinned);
        let map = FrameMap::of_memory(&self.pool, inode)?;
        Ok((SnapshotEntry::of(inode), map))
    }

    /// Pins what the catalog lists under an id, for as long as its lock is held.
    pub(crate) fn pin_id(&self, _lock: &CatalogLock<'_>, id: SnapshotId) -> Result<()> {
        self.set_pin(id, PINS_MAX)
    }

    /// Unpins a snapshot. If it was removed meanwhile and nobody else pins it, its
    /// blocks become free.
    ///
    /// # Errors
    /// [`Error::NotPinned`] when this holder does not pin it.
    pub fn unpin(&self, id: SnapshotId) -> Result<()> {
        let mut lock = CatalogLock::take(&self.pool)?;
        if self.pin_index(id)?.is_none() {
            return Err(Error::NotPinned { id: id.get() });
        }
        lock.sweep_orphans(|slot, pinned| (slot, pinned) == (self.slot, id))?;
        fault_point(FaultPoint::UnpinSwept);
        self.clear_pin(id)
    }

    /// Unpins all pinned snapshots but one.
    ///
    /// # Errors
    /// [`Error::NotPinned`] when this holder does not pin that one; nothing has changed then.
    pub fn unpin_others(&self, keep: SnapshotId) -> Result<()> {
        let mut lock = CatalogLock::take(&self.pool)?;
        if self.pin_index(keep)?.is_none() {
            return Err(Error::NotPinned { id: keep.get() });
        }
        lock.sweep_orphans(|slot, pinned| slot == self.slot && pinned != keep)?;
        fault_point(FaultPoint::UnpinSwept);
        let slot = self.pool.store.holder_slot(self.slot)?;
        for (index, pin) in slot.pins.iter().enumerate() {
            if ![0, keep.get()].contains(&pin.get()) {
                self.pool.store.set_pin(self.slot, index, 0)?;
            }
        }
        Ok(())
    }

    /// The memory of a snapshot that this holder pins.
    ///
    /// # Errors
    /// [`Error::NotPinned`] when this holder does not pin it.
    pub fn frame_map(&self, id: SnapshotId) -> Result<FrameMap> {
        let inode = self.pinned_inode(id)?;
        FrameMap::of_memory(&self.pool, &inode)
    }

    /// All maps of a snapshot that this holder pins.
    ///
    /// # Errors
    /// [`Error::NotPinned`] when this holder does not pin it.
    pub fn frame_maps(&self, id: SnapshotId) -> Result<Vec<FrameMap>> {
        let inode = self.pinned_inode(id)?;
        let maps = inode.maps.iter();
        Ok(maps.map(|map| FrameMap::new(&self.pool, id, map)).collect())
    }

    pub(crate) fn pinned_inode(&self, id: SnapshotId) -> Result<Arc<Inode>> {
        let mut lock = CatalogLock::take(&self.pool)?;
        let listing = lock.listing()?;
        match (self.pin_index(id)?, listing.by_id(id)) {
            (Some(_), Some(listed)) => Ok(Arc::clone(&listed.inode)),
            _ => Err(Error::NotPinned { id: id.get() }),
        }
    }

    /// Takes a wholly free chunk: all its 512 blocks are the holder's own, with memory behind them.
    ///
    /// # Errors
    /// [`Error::PoolFull`] when no chunk is wholly free; [`Error::MediumFull`].
    pub fn alloc_chunk(&self) -> Result<ChunkNo> {
        self.leases.lease_empty(false)
    }

    /// Leases a wholly free chunk and sets it aside for [`Holder::alloc_at`]: none of its blocks is
    /// an own one yet, and [`Holder::alloc_blocks`] takes from it only when there is nothing else.
    ///
    /// # Errors
    /// [`Error::PoolFull`] when no chunk is wholly free.
    pub fn lease_chunk(&self) -> Result<ChunkNo> {
        self.leases.lease_empty(true)
    }

    /// Ends that a chunk is set aside: [`Holder::alloc_blocks`] or others can take its other
    /// blocks.
    pub fn end_set_aside(&self, chunk: ChunkNo) {
        self.leases.end_set_aside(chunk);
    }

    /// Takes free blocks anywhere, from partly used chunks first, with memory behind them. They
    /// read as zero.
    ///
    /// # Errors
    /// [`Error::PoolFull`], [`Error::MediumFull`]; nothing was taken then.
    pub fn alloc_blocks(&self, count: u32) -> Result<Vec<BlockNo>> {
        self.leases.alloc_provided(count)
    }

    /// The same, without asking the medium for their memory. pwrite(2) asks for it; before they are
    /// stored to through a mapping, [`Holder::provide`] must.
    ///
    /// # Errors
    /// [`Error::PoolFull`]; nothing was taken then.
    pub fn take_blocks(&self, count: u32) -> Result<Vec<BlockNo>> {
        self.leases.alloc(count)
    }

    /// Has the medium give memory for blocks of the holder that are taken and may have none.
    ///
    /// # Errors
    /// [`Error::MediumFull`], [`Error::Io`].
    pub fn provide(&self, blocks: &[BlockNo]) -> Result<()> {
        if self.pool.must_provide() {
            self.leases.provide(blocks)?;
        }
        Ok(())
    }

    /// Takes one block of a chunk that the holder has leased, if it is free. It reads as zero, and
    /// the medium was not asked for its memory ([`Holder::provide`]).
    pub fn alloc_at(&self, chunk: ChunkNo, place: impl Into<FrameIndex>) -> bool {
        self.leases.alloc_at(chunk, place.into())
    }

    /// Gives back own blocks: they are zeroed, and their memory goes back to the medium.
    pub fn free_blocks(&self, blocks: &[BlockNo]) {
        self.leases.free(blocks);
    }

    /// Writes to an own block. `from` is at most a block long.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] when the block is not an own one, or the bytes are too many.
    pub fn write_block(&self, block: BlockNo, from: &[u8]) -> Result<()> {
        if from.len() as u64 > BLOCK_SIZE_BYTES || !self.leases.table().is_own(block) {
            return Err(Error::invalid(format!(
                "{block} is not an own block of this holder, or {} bytes are too many",
                from.len()
            )));
        }
        self.pool
            .store
            .region
            .write_foreign(block.byte_offset(), from)
    }

    /// Copies all blocks of `from` to `to`, whose blocks are own ones. For media that only take
    /// whole chunks, which cannot be written with write(2). Nobody may write `from` meanwhile.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] when a block of `to` is not an own one.
    pub fn copy_chunk(&self, from: ChunkNo, to: ChunkNo) -> Result<()> {
        let is_own = {
            let table = self.leases.table();
            to.blocks().all(|block| table.is_own(block))
        };
        if !is_own {
            return Err(Error::invalid(format!(
                "{to} is not an own chunk of this holder"
            )));
        }
        self.pool.store.copy_chunk(from, to)
    }

    /// Takes blocks ahead of a commit, with memory behind them.
    ///
    /// # Errors
    /// [`Error::PoolFull`], [`Error::MediumFull`]; nothing was taken then.
    pub fn reserve(&self, blocks: u32) -> Result<Reservation> {
        self.reserve_up_to(blocks, blocks)
    }

    /// Takes `at_most` blocks ahead of a commit that will rather need `likely`: as many as that
    /// have memory behind them, for the others it is asked when they are needed. (In an
    /// overcommitted pool, whose medium may have none then, it is asked for now.)
    ///
    /// # Errors
    /// [`Error::PoolFull`], [`Error::MediumFull`]; nothing was taken then.
    pub fn reserve_up_to(&self, likely: u32, at_most: u32) -> Result<Reservation> {
        let likely = likely.min(at_most);
        let mut blocks = self.leases.alloc(at_most)?;
        let reservation = Reservation {
            leases: Arc::clone(&self.leases),
            promised: blocks.split_off(likely as usize),
            blocks,
        };
        if self.pool.overcommit() {
            self.leases.provide(&reservation.promised)?;
        }
        self.leases.provide(&reservation.blocks)?;
        Ok(reservation)
    }

    fn pin_index(&self, id: SnapshotId) -> Result<Option<usize>> {
        let slot = self.pool.store.holder_slot(self.slot)?;
        Ok(slot.pins.iter().position(|pin| pin.get() == id.get()))
    }

    /// Pins an id, if fewer than `pins_max` are pinned. The caller has the catalog lock.
    fn set_pin(&self, id: SnapshotId, pins_max: usize) -> Result<()> {
        if self.pin_index(id)?.is_some() {
            return Ok(());
        }
        let slot = self.pool.store.holder_slot(self.slot)?;
        let free = slot.pins.iter().position(|pin| pin.get() == 0);
        let index =
            free.filter(|_| slot.pinned().count() < pins_max)
                .ok_or(Error::TooManyPins {
                    count: pins_max as u32,
                })?;
        self.pool.store.set_pin(self.slot, index, id.get())
    }

    /// Ends a pin, if there is one. The caller has the catalog lock.
    fn clear_pin(&self, id: SnapshotId) -> Result<()> {
        match self.pin_index(id)? {
            Some(index) => self.pool.store.set_pin(self.slot, index, 0),
            None => Ok(()),
        }
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Tells this holder of its slot from the next one.
    pub(crate) fn nonce(&self) -> Result<u32> {
        Ok(self.pool.store.holder_slot(self.slot)?.nonce.get())
    }

    /// Pins a disk that is in the catalog, for as long as its lock is held.
    pub(crate) fn pin_disk(&self, _lock: &CatalogLock<'_>, id: SnapshotId) -> Result<()> {
        self.set_pin(id, PINS_MAX_OF_OTHERS)
    }

    /// Has something end before the holder does.
    pub(crate) fn add_attached(&self, attached: &Arc<dyn Attached>) {
        let mut all = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|attached| attached.strong_count() > 0);
        all.push(Arc::downgrade(attached));
    }

    fn release_all(&self) -> Result<()> {
        let attached =
            std::mem::take(&mut *self.attached.lock().unwrap_or_else(PoisonError::into_inner));
        for attached in attached.iter().filter_map(Weak::upgrade) {
            attached.end()?;
        }
        self.leases.close()?;
        fault_point(FaultPoint::ReleaseLeasesEnded);
        let mut lock = CatalogLock::take(&self.pool)?;
        lock.sweep_orphans(|slot, _| slot == self.slot)?;
        fault_point(FaultPoint::ReleaseSwept);
        self.pool.store.clear_holder_slot(self.slot)?;
        fault_point(FaultPoint::ReleaseSlotFree);
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let released = self.release_all().and_then(|()| self.pool.clean());
        if let Err(error) = released {
            tracing::error!(
                %error,
                holder = self.name,
                "could not release everything of the pool: its next user will"
            );
        }
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Holder")
            .field("name", &self.name)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

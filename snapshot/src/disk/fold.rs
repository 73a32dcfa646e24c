//! Commits that have what a head has logged: by themselves, and with snapshots.

use std::sync::{Arc, MutexGuard};

use super::flush::take_durable;
use super::head::{DiskHead, State, locked};
use super::{resize, with_room};
use crate::catalog::Listed;
use crate::catalog_lock::{CatalogLock, Commit, changes_of, set_map};
use crate::error::{Error, Result};
use crate::head_log::flush_data;
use crate::holder::{Attached, Committed, DiskFold, Holder, NewSnapshot, Reservation};
use crate::layout::inode::{FileMap, Inode};
use crate::name::DiskName;
use crate::number::{BlockNo, SnapshotId};
use crate::overlay::Overlay;

/// A disk at the instant of a snapshot. Until it is committed or dropped, later changes stay in the
/// head's log, which has room for some thousands.
#[derive(Debug)]
pub struct DiskCut {
    source: Source,
    name: DiskName,
}

#[derive(Debug)]
enum Source {
    /// A disk that the holder writes to, up to a record.
    Head(Arc<DiskHead>, u64),
    /// A map of a disk or snapshot that the holder pins.
    Pinned(SnapshotId, FileMap),
}

impl DiskCut {
    pub(super) fn new(head: &Arc<DiskHead>, upto: u64, name: DiskName) -> DiskCut {
        let source = Source::Head(Arc::clone(head), upto);
        DiskCut { source, name }
    }

    pub(super) fn pinned(id: SnapshotId, map: FileMap, name: DiskName) -> DiskCut {
        let source = Source::Pinned(id, map);
        DiskCut { source, name }
    }

    /// Has the disk another name in the snapshot: that of the drive of the VM, which stays the same
    /// in copies of the VM.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn named(mut self, name: &str) -> Result<DiskCut> {
        self.name = DiskName::new(name)?;
        Ok(self)
    }
}

impl Drop for DiskCut {
    fn drop(&mut self) {
        let Source::Head(head, upto) = &self.source else {
            return;
        };
        let mut state = head.change();
        if let Some(count) = state.cuts.get_mut(upto) {
            *count -= 1;
            if *count == 0 {
                state.cuts.remove(upto);
            }
        }
    }
}

/// Layers of a head that a commit is about to have.
struct Folding<'h> {
    head: &'h DiskHead,
    /// Of the layers that there are: the last record of the last one.
    upto: u64,
    overlay: Overlay,
    /// The blocks that the map will have, sorted.
    blocks: Vec<BlockNo>,
    /// Own blocks that it will not have, as later layers have others.
    leftover: Vec<BlockNo>,
    _folding: MutexGuard<'h, ()>,
}

impl<'h> Folding<'h> {
    /// The layers of a head up to a record. Makes what they refer to durable.
    fn begin(head: &'h DiskHead, upto: impl FnOnce(&mut State) -> u64) -> Result<Folding<'h>> {
        let folding = locked(&head.folding);
        let (layers, upto) = {
            let mut state = head.change();
            let upto = upto(&mut state);
            let layers = state.layers.iter().filter(|layer| layer.upto <= upto);
            let layers: Vec<_> = layers.map(|layer| Arc::clone(&layer.overlay)).collect();
            (layers, upto.max(state.folded))
        };
        let mut overlay = Overlay::default();
        let mut leftover = Vec::new();
        for layer in layers.iter().rev() {
            overlay.put_below(layer);
            leftover.extend(layer.blocks());
        }
        let mut blocks = overlay.blocks();
        blocks.sort_unstable();
        leftover.retain(|block| blocks.binary_search(block).is_err());
        let store = &head.pool.store;
        store.clear_digests_durably(&blocks)?;
        flush_data(store, &blocks)?;
        store.region.fence()?;
        Ok(Folding {
            head,
            upto,
            overlay,
            blocks,
            leftover,
            _folding: folding,
        })
    }

    /// The map is the committed one: nothing is read through the one before any more.
    fn switched(&self, map: &FileMap) {
        let mut state = self.head.change();
        state.frames = crate::FrameMap::new(&self.head.pool, self.head.disk, map);
        state.map = *map;
        state.layers.retain(|layer| layer.upto > self.upto);
        state.folded = state.folded.max(self.upto);
        state.flushed = state.flushed.max(self.upto);
        drop(state);
        self.head
            .leaves
            .forget(self.overlay.iter().map(|(index, _)| index));
    }

    /// The commit is done.
    fn end(self) {
        let head = self.head;
        head.leases.release(&self.blocks);
        let mut gone = take_durable(&mut head.change().freed, self.upto);
        gone.extend(&self.leftover);
        head.leases.free(&gone);
    }
}

impl DiskHead {
    /// The disk, as the catalog lists it.
    pub(super) fn listed(&self, lock: &mut CatalogLock<'_>) -> Result<Listed> {
        let listing = lock.listing()?;
        let listed = listing.by_id(self.disk);
        let listed = listed.filter(|listed| {
            let head = listed.inode.head();
            head.is_some_and(|head| head.id == self.place.id)
        });
        listed
            .cloned()
            .ok_or_else(|| Error::damaged(format!("disk '{}' has lost its head", self.name())))
    }

    /// Commits what is logged, as far as no snapshot needs it as it was. False when there was
    /// nothing to commit.
    pub(super) fn fold(&self) -> Result<bool> {
        let folding = Folding::begin(self, |state| {
            state.cut();
            state.cuts.keys().next().copied().unwrap_or(state.last)
        })?;
        if folding.upto <= self.look().folded {
            return Ok(false);
        }
        self.commit(&folding, false)?;
        folding.end();
        Ok(true)
    }

    fn commit(&self, folding: &Folding<'_>, last: bool) -> Result<()> {
        with_room(&self.pool, || {
            let mut lock = CatalogLock::take(&self.pool)?;
            let listed = self.listed(&mut lock)?;
            let map = *listed.inode.disk_map()?;
            let changes = changes_of(&self.pool.store, &map, &folding.overlay)?;
            let folded = |commit: &mut Commit<'_, '_>, inode: &mut Inode| {
                let map = commit.fold(&map, &changes)?;
                set_map(inode, map);
                inode.advance_head(folding.upto);
                if last && let Some(disk) = &mut inode.disk {
                    disk.head = None;
                }
                Ok(())
            };
            lock.change_disk(&listed, false, folded, |inode| {
                if let Ok(map) = inode.disk_map() {
                    folding.switched(map);
                }
            })
        })
    }

    /// Makes the disk larger. What is added reads as zero.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] for a size that is less than it has, or that no disk can have;
    /// [`Error::PoolFull`].
    pub fn resize(&self, size_bytes: u64) -> Result<()> {
        let _folding = locked(&self.folding);
        with_room(&self.pool, || {
            let mut lock = CatalogLock::take(&self.pool)?;
            let listed = self.listed(&mut lock)?;
            resize(&mut lock, &listed, size_bytes, |inode| {
                if let Ok(map) = inode.disk_map() {
                    let mut state = self.change();
                    state.frames = crate::FrameMap::new(&self.pool, self.disk, map);
                    state.map = *map;
                }
            })
        })
    }
}

impl Attached for DiskHead {
    /// Commits all that is logged, and ends the head. If that fails, what it has logged stays, and
    /// its blocks must be left to whoever attaches the disk next.
    fn end(&self) -> Result<()> {
        {
            let mut state = self.change();
            if state.ended {
                return Ok(());
            }
            state.ended = true;
            state.cut();
        }
        let done = Folding::begin(self, |state| state.last).and_then(|folding| {
            self.commit(&folding, true)?;
            folding.end();
            Ok(())
        });
        let spare = std::mem::take(&mut *locked(&self.spare));
        self.leases.free(&spare);
        if done.is_err() {
            self.leases.leave_to_recovery();
        }
        done
    }
}

impl Drop for DiskHead {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            let disk = self.name();
            tracing::error!(%error, disk, "could not end the use of a disk: its next user will");
        }
    }
}

impl Holder {
    /// Commits a snapshot with disks: it has them as they were when they were cut. All else is as
    /// in [`Holder::commit_replacing`].
    ///
    /// # Errors
    /// As there; [`Error::InvalidSnapshot`] for more than 8 disks, or two of one name.
    pub fn commit_with_disks(
        &self,
        new: NewSnapshot<'_>,
        mut cuts: Vec<DiskCut>,
        replaced: &[SnapshotId],
        reservation: Reservation,
    ) -> Result<Committed> {
        // Always in the same order, as each has a lock.
        cuts.sort_by_key(|cut| match &cut.source {
            Source::Head(head, _) => head.disk,
            Source::Pinned(id, _) => *id,
        });
        let mut foldings = Vec::new();
        for cut in &cuts {
            if let Source::Head(head, upto) = &cut.source {
                let taken: Option<&Folding<'_>> = foldings.last();
                if taken.is_some_and(|last| last.head.disk == head.disk) {
                    return Err(Error::invalid("a disk is named twice"));
                }
                foldings.push(Folding::begin(head, |_| *upto)?);
            }
        }
        let mut folds = Vec::new();
        let mut of_heads = foldings.iter();
        for cut in &cuts {
            folds.push(match &cut.source {
                Source::Pinned(id, map) => DiskFold::of_pinned(*id, map, cut.name),
                Source::Head(..) => {
                    let Some(folding) = of_heads.next() else {
                        continue;
                    };
                    let (head, map) = (folding.head, folding.head.look().map);
                    DiskFold {
                        name: cut.name,
                        disk: head.disk,
                        head: Some(head.place.id),
                        upto: folding.upto,
                        changes: changes_of(&self.pool().store, &map, &folding.overlay)?,
                        map,
                        switched: Box::new(|map: &FileMap| folding.switched(map)),
                    }
                }
            });
        }
        let committed = self.commit_of(new, &folds, None, replaced, reservation)?;
        drop(folds);
        foldings.into_iter().for_each(Folding::end);
        Ok(committed)
    }

    /// Attaches a disk for writing. Nobody else can write to it, or read it, until the head is
    /// dropped. What a writer has left that died is in the disk.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::DiskInUse`], [`Error::NoDisksYet`], [`Error::PoolFull`].
    pub fn attach_disk(&self, name: &str) -> Result<Arc<DiskHead>> {
        let pool = self.pool();
        let head = with_room(pool, || {
            let mut lock = CatalogLock::take(pool)?;
            let (_, listed) = pool.unused_disk(&mut lock, name)?;
            let id = lock.current()?.superblock.next_snapshot_id.get();
            let nonce = self.nonce()?;
            let mut attached = None;
            let begun = |commit: &mut Commit<'_, '_>, inode: &mut Inode| {
                let place = crate::layout::inode::HeadPlace {
                    id,
                    slot: self.slot(),
                    nonce,
                    base: 0,
                    log: commit.put_log(id)?,
                };
                if let Some(disk) = &mut inode.disk {
                    disk.head = Some(place);
                }
                Ok(())
            };
            lock.change_disk(&listed, true, begun, |inode| {
                attached = inode.head().cloned();
            })?;
            let place = attached.ok_or_else(|| Error::damaged("a disk without its head"))?;
            let of = (listed.inode.id, DiskName::new(name)?);
            let map = *listed.inode.disk_map()?;
            if listed.inode.foreign {
                self.mark_foreign();
            }
            Ok(Arc::new(DiskHead::new(pool, self.leases(), of, place, map)))
        })?;
        let attached: Arc<dyn Attached> = head.clone();
        self.add_attached(&attached);
        Ok(head)
    }
}

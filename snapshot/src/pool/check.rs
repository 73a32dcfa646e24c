//! Checking every invariant of a pool.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::catalog_lock::CatalogLock;
use crate::cleaner_lock::CleanerLock;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::layout::inode::{FileMap, Inode};
use crate::layout::node::{Entry, NodeKind};
use crate::layout::runtime::{COMMITTED_OFFSET, DIRTY, DIRTY_OFFSET, committed_generation};
use crate::layout::segment::WAITING;
use crate::layout::superblock::CATALOG_HEIGHT;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo, SnapshotId,
};
use crate::recovery::reclaim_dead_holders;
use crate::refs::BlockNumbers;
use crate::store::{BlockStore, Fill, WrittenCursor};
use crate::tree::{Frames, NodePlace, Role, Visitor, leaf_map, walk};
use crate::wording::{counted, is_or_are, plural};

/// Findings that are listed; the rest is only counted.
const FINDINGS_MAX: usize = 100;

/// The findings of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Each thing that is wrong, as a sentence. At most a hundred, and then how many more there
    /// are.
    pub findings: Vec<String>,
    /// Blocks whose reference count was compared.
    pub blocks_checked: u64,
    /// Nodes of maps and of the catalog that were read and verified.
    pub nodes_checked: u64,
    /// Snapshots that were checked, removed ones that are still in use included.
    pub snapshots_checked: u64,
}

impl CheckReport {
    /// True when everything is as it must be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A living holder.
struct Living {
    name: String,
    leases: u32,
}

/// A check under way.
struct Check<'s> {
    store: &'s BlockStore,
    report: CheckReport,
    more_findings: u64,
    refs: BlockNumbers,
    /// The role of each block of metadata, and the number of references that say so.
    roles: HashMap<BlockNo, (Role, i32)>,
    inodes: Vec<Inode>,
}

impl Check<'_> {
    fn find(&mut self, what: impl Into<String>) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(what.into());
        } else {
            self.more_findings += 1;
        }
    }
}

impl Visitor for Check<'_> {
    fn role(&mut self, block: BlockNo, role: Role) {
        let (known, references) = self.roles.entry(block).or_insert((role, 0));
        if *known == role {
            *references = references.saturating_add(1);
        }
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
        self.refs.add_frames(frames);
        Ok(())
    }

    fn reference(&mut self, block: BlockNo) -> Result<bool> {
        Ok(self.refs.add(block, 1) == 0)
    }

    fn node(&mut self) {
        self.report.nodes_checked += 1;
    }

    fn inode(&mut self, _slot: u32, inode: &Inode) -> Result<()> {
        self.inodes.push(inode.clone());
        Ok(())
    }

    fn damage(&mut self, error: Error) -> Result<()> {
        self.find(error.to_string());
        Ok(())
    }
}

/// Number of times that a free block is looked at before it counts as wrong.
const FREE_LOOKS: usize = 3;
/// Number of times that the leases of a holder are counted, which changes them all the time.
const LEASE_LOOKS: usize = 20;

/// Time for which the lock is held to read free blocks, but for the end of a chunk.
const HELD_MAX: Duration = Duration::from_millis(1);

impl Pool {
    /// Checks every invariant: superblocks, each node and inode, each reference count against the
    /// catalog, each lease and pin against the living holders, that free blocks read as zero,
    /// and that only blocks of memory have digests. What they hold is for [`Pool::scrub`] to
    /// verify.
    ///
    /// # Errors
    /// Only what keeps it from checking; what is wrong with the pool is in the report.
    pub fn check(&self) -> Result<CheckReport> {
        self.check_showing(&mut |_, _| ())
    }

    /// The same. What takes long is to read free blocks: `on_progress` is told of how many of the
    /// pool's bytes that was done, and how many there are.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub fn check_showing(&self, on_progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport> {
        let mut lock = CatalogLock::take(self)?;
        // Who died since the pool was opened is no fault of the pool's; who dies from here on
        // counts as living.
        reclaim_dead_holders(&mut lock)?;
        let store = &self.store;
        let mut check = Check {
            store,
            report: CheckReport::default(),
            more_findings: 0,
            refs: BlockNumbers::default(),
            roles: HashMap::new(),
            inodes: Vec::new(),
        };
        check.superblocks(&lock)?;
        let root = lock.current()?.superblock.catalog_root(&store.layout)?;
        walk(
            store,
            root,
            NodePlace::root(NodeKind::Catalog, CATALOG_HEIGHT),
            &mut check,
        )?;
        check.roles()?;
        check.inodes(self, &lock)?;
        let live = check.holders()?;
        let cleaner = CleanerLock::take(self)?;
        check.counts(&live)?;
        drop(cleaner);
        drop(lock);
        check.free_blocks(self, on_progress)?;
        let mut report = check.report;
        if check.more_findings > 0 {
            let more = plural(check.more_findings, "finding");
            report
                .findings
                .push(format!("and {} more {more}", check.more_findings));
        }
        Ok(report)
    }
}

impl Check<'_> {
    /// A walk goes into a block once, at its first reference: another one must mean the same by it.
    fn roles(&mut self) -> Result<()> {
        let mut roles: Vec<_> = std::mem::take(&mut self.roles).into_iter().collect();
        roles.sort_unstable_by_key(|(block, _)| *block);
        for (block, (role, references)) in roles {
            let all = self.refs.get(block);
            if all != references {
                let others = all - references;
                let count = u64::from(others.unsigned_abs());
                self.find(format!(
                    "{block} is {role}, and {others} more {} {} to something else",
                    plural(count, "reference"),
                    is_or_are(count)
                ));
            }
            if self.store.digest(block)? != 0 {
                self.find(format!("{block} is {role}, but has a digest"));
            }
        }
        Ok(())
    }

    fn superblocks(&mut self, lock: &CatalogLock<'_>) -> Result<()> {
        let current = lock.current()?;
        if let Some(fault) = &current.other_fault {
            self.find(format!(
                "superblock slot {}: {fault}; the other one is intact",
                1 - current.slot
            ));
        }
        let mut word = [0; 8];
        self.store.region.read(COMMITTED_OFFSET, &mut word)?;
        match committed_generation(u64::from_le_bytes(word)) {
            Some(generation) if generation <= current.generation() => {}
            Some(generation) => self.find(format!(
                "generation {generation} was complete, but the newest superblock is of generation \
                 {}",
                current.generation()
            )),
            None => self.find("the runtime block's committed generation does not fit its check"),
        }
        if self.store.region.load_u32(DIRTY_OFFSET)? == DIRTY {
            self.find("the runtime block says that reference counts are being changed");
        }
        Ok(())
    }

    fn inodes(&mut self, pool: &Pool, lock: &CatalogLock<'_>) -> Result<()> {
        let superblock = lock.current()?.superblock.clone();
        let inodes = std::mem::take(&mut self.inodes);
        self.report.snapshots_checked = inodes.len() as u64;
        let orphans = inodes.iter().filter(|inode| inode.orphan).count();
        let named = inodes.len() - orphans;
        if (
            superblock.snapshots.get() as usize,
            superblock.orphans.get() as usize,
        ) != (named, orphans)
        {
            self.find(format!(
                "the superblock counts {} and {} removed; in the catalog are {named} and {orphans}",
                counted(superblock.snapshots.get(), "snapshot"),
                superblock.orphans
            ));
        }
        let pinned = self.pinned()?;
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for inode in &inodes {
            let what = format!("snapshot {} ('{}')", inode.id, inode.name);
            if !ids.insert(inode.id) || inode.id.get() >= superblock.next_snapshot_id.get() {
                self.find(format!(
                    "{what}: its id is used twice, or is not one that was given out"
                ));
            }
            if !inode.orphan && !names.insert(inode.name.clone()) {
                self.find(format!("{what}: its name is used twice"));
            }
            if inode.orphan && !pinned.contains(&inode.id) {
                self.find(format!("{what}: removed, and pinned by nobody"));
            }
            if let Err(error) = pool.state_of(inode) {
                self.find(error.to_string());
            }
            match self.count_frames(inode) {
                Ok(Some(frames)) if frames == inode.frames_mapped => {}
                Ok(None) => self.find(format!("{what}: it has frames behind its memory's end")),
                Ok(Some(frames)) => self.find(format!(
                    "{what}: its inode counts {}, and {frames} {} mapped",
                    counted(inode.frames_mapped, "frame"),
                    is_or_are(frames)
                )),
                // What cannot be read was found on the way here.
                Err(_) => {}
            }
        }
        self.inodes = inodes;
        Ok(())
    }

    /// Snapshots that holders pin, also those that have died since the check began: whoever takes
    /// back what they left will find it.
    fn pinned(&self) -> Result<HashSet<SnapshotId>> {
        let mut pinned = HashSet::new();
        for slot in 0..HOLDER_SLOTS {
            if self.store.holder_slot_is_used(slot)? {
                pinned.extend(self.store.holder_slot(slot)?.pinned());
            }
        }
        Ok(pinned)
    }

    /// The frames of all maps of a file; `None` when there are some behind the end of what a map
    /// is of.
    fn count_frames(&self, inode: &Inode) -> Result<Option<u64>> {
        let mut frames = 0;
        for map in &inode.maps {
            let Some(of_map) = self.count_frames_of(map)? else {
                return Ok(None);
            };
            frames += of_map;
        }
        Ok(Some(frames))
    }

    fn count_frames_of(&self, map: &FileMap) -> Result<Option<u64>> {
        let mut left = vec![(map.root, NodePlace::root_of(map))];
        let mut frames = 0;
        while let Some((entry, place)) = left.pop() {
            match entry {
                Entry::Node { block, crc24 } if place.level > 0 => {
                    if let crate::layout::node::Node::Inner(entries) =
                        self.store.node(block, &place.expect(crc24))?
                    {
                        let children = entries
                            .iter()
                            .enumerate()
                            .filter(|(_, entry)| **entry != Entry::Hole);
                        left.extend(children.map(|(index, entry)| (*entry, place.child(index))));
                    }
                }
                _ => frames += u64::from(leaf_map(self.store, entry, place)?.count()),
            }
            if entry != Entry::Hole && place.first_index >= u64::from(map.chunks_total()) {
                return Ok(None);
            }
        }
        Ok(Some(frames))
    }

    /// Checks the holder table: every slot in it is a living holder's, as the dead ones' were
    /// cleared first.
    fn holders(&mut self) -> Result<HashMap<u32, Living>> {
        let known: HashSet<SnapshotId> = self.inodes.iter().map(|inode| inode.id).collect();
        let mut live = HashMap::new();
        for slot in 0..HOLDER_SLOTS {
            if !self.store.holder_slot_is_used(slot)? {
                continue;
            }
            let holder = self.store.holder_slot(slot)?;
            for pin in holder.pinned().filter(|pin| !known.contains(pin)) {
                self.find(format!(
                    "holder '{}' pins snapshot {pin}, which does not exist",
                    holder.name()
                ));
            }
            live.insert(
                slot,
                Living {
                    name: holder.name(),
                    leases: holder.leases.get(),
                },
            );
        }
        Ok(live)
    }

    fn counts(&mut self, live: &HashMap<u32, Living>) -> Result<()> {
        let mut leases: HashMap<u32, u32> = HashMap::new();
        let mut written = WrittenCursor::until(self.store.region.len_bytes());
        for chunk in (0..self.store.layout.chunks()).filter_map(ChunkNo::new) {
            let start = self.store.layout.block_table_offset(chunk)?;
            let any = written.overlaps(&*self.store.region, start..start + BLOCK_SIZE_BYTES)?;
            let (used, waiting) = if any || self.refs.of_chunk(chunk).is_some() {
                self.chunk_counts(chunk)?
            } else {
                // Never written: all counts are 0, as they must be.
                self.report.blocks_checked += u64::from(CHUNK_BLOCKS);
                (0, 0)
            };
            self.chunk_fill(chunk, Fill { used, waiting })?;
            match self.store.lease_owner(chunk)? {
                Some(slot)
                    if !live.contains_key(&slot) || !self.store.layout.is_data_chunk(chunk) =>
                {
                    self.find(format!(
                        "{chunk} is leased to slot {slot}, where no holder lives"
                    ));
                }
                Some(slot) => *leases.entry(slot).or_default() += 1,
                None => {}
            }
        }
        for (slot, holder) in live {
            let found = leases.get(slot).copied().unwrap_or(0);
            if found > holder.leases && !self.leases_agree(*slot)? {
                let (name, said) = (&holder.name, holder.leases);
                self.find(format!(
                    "the slot of holder '{name}' counts {}, and {} leased to it",
                    counted(said, "lease"),
                    format_args!("{} {}", counted(found, "chunk"), is_or_are(found))
                ));
            }
        }
        Ok(())
    }

    /// Compares a holder's leases with its slot's number of them anew. It takes leases and gives
    /// them back meanwhile.
    fn leases_agree(&self, slot: u32) -> Result<bool> {
        for _ in 0..LEASE_LOOKS {
            let mut found = 0;
            for chunk in self.store.layout.data_chunks() {
                found += u32::from(self.store.lease_owner(chunk)? == Some(slot));
            }
            if found <= self.store.holder_slot(slot)?.leases.get() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compares the numbers of a chunk with what they must be.
    fn chunk_fill(&mut self, chunk: ChunkNo, is: Fill) -> Result<()> {
        let said = self.store.fill(chunk)?;
        if said.used != is.used {
            self.find(format!(
                "{chunk}: the chunk table counts {} in use, and {} {}",
                counted(said.used, "block"),
                is.used,
                is_or_are(is.used)
            ));
        }
        if said.waiting < is.waiting {
            self.find(format!(
                "{chunk}: the chunk table counts {} that {} to be cleaned, and {} {}",
                counted(said.waiting, "block"),
                if said.waiting == 1 { "waits" } else { "wait" },
                is.waiting,
                if is.waiting == 1 { "does" } else { "do" },
            ));
        } else if said.waiting > is.waiting && said.used == is.used {
            // A cleaner has died. Nobody else cleans now.
            self.store.set_fill(chunk, is)?;
        }
        Ok(())
    }

    /// Compares the counts of a chunk's blocks. Those that are in use, and those that wait.
    fn chunk_counts(&mut self, chunk: ChunkNo) -> Result<(u32, u32)> {
        let (mut used, mut waiting) = (0, 0);
        let counts = self.store.refcounts(chunk)?;
        let derived = self
            .refs
            .of_chunk(chunk)
            .unwrap_or([0; CHUNK_BLOCKS as usize]);
        let may_wait = self.store.cleans_later && self.store.layout.is_data_chunk(chunk);
        for ((block, said), derived) in chunk.blocks().zip(counts).zip(derived) {
            self.report.blocks_checked += 1;
            used += u32::from(derived > 0);
            if derived == 0 && self.store.digest(block)? != 0 {
                self.find(format!("{block} is in no snapshot, but has a digest"));
            }
            if said == WAITING && derived == 0 && may_wait {
                waiting += 1;
            } else if i64::from(said) != i64::from(derived) {
                self.find(format!(
                    "{block}: its reference count is {said}, {derived} references exist"
                ));
            }
        }
        Ok((used, waiting))
    }

    /// A free block may be given to anyone: it must not hold anyone's bytes.
    ///
    /// That is to be read, and takes long: the lock is given back now and then, so that no guest
    /// waits for all of it. A block that is in use by now is not looked at.
    fn free_blocks(&mut self, pool: &Pool, on_progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut written = WrittenCursor::until(self.store.region.len_bytes());
        let chunks: Vec<_> = self.store.layout.data_chunks().collect();
        let mut lock = CatalogLock::take(pool)?;
        let mut taken = Instant::now();
        for (done, chunk) in chunks.iter().enumerate() {
            if done == 0 || taken.elapsed() >= HELD_MAX {
                drop(lock);
                // A terminal may take its time.
                on_progress(
                    done as u64 * CHUNK_SIZE_BYTES,
                    chunks.len() as u64 * CHUNK_SIZE_BYTES,
                );
                lock = CatalogLock::take(pool)?;
                taken = Instant::now();
            }
            let bytes = chunk.byte_offset()..chunk.byte_offset() + CHUNK_SIZE_BYTES;
            if self.store.lease_owner(*chunk)?.is_none() {
                self.free_blocks_in(bytes, &mut written)?;
            }
        }
        let spare = self.store.layout.spare_bytes();
        self.free_blocks_in(spare.clone(), &mut WrittenCursor::until(spare.end))
    }

    fn free_blocks_in(&mut self, bytes: Range<u64>, written: &mut WrittenCursor) -> Result<()> {
        for block in written.blocks_in(&*self.store.region, bytes)? {
            let mut is_wrong = self.refs.get(block) == 0;
            // A holder may lease the chunk, use the block and free it at any time.
            for _ in 0..FREE_LOOKS {
                is_wrong = is_wrong
                    && self.store.refcount(block)? == 0
                    && self.store.lease_owner(block.chunk())?.is_none()
                    && !self.store.is_zero(block)?;
            }
            if is_wrong {
                self.find(format!("{block} is free, but does not read as zero"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;

//! Reading all inodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::chunk_map::{ChunkMap, LeafBlocks};
use crate::error::{Error, Result};
use crate::layout::inode::Inode;
use crate::layout::node::{Entry, INNER_ENTRIES, Node, NodeKind};
use crate::layout::superblock::{CATALOG_HEIGHT, SNAPSHOTS_MAX};
use crate::number::{BlockNo, CHUNK_BLOCKS, SnapshotId};
use crate::store::BlockStore;
use crate::tree::{NodePlace, leaf_map};

/// Inodes by block, with the checksum that they had when they were read.
#[derive(Default)]
pub(crate) struct InodeCache(HashMap<BlockNo, (u32, Listed)>);

/// An inode and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Its slot in the catalog.
    pub(crate) slot: u32,
    /// Its block.
    pub(crate) block: BlockNo,
    /// The inode.
    pub(crate) inode: Arc<Inode>,
}

impl Listed {
    /// The inode, of a snapshot that was not received in part only.
    pub(crate) fn complete(&self) -> Result<&Arc<Inode>> {
        if self.inode.incomplete {
            let name = self.inode.name.clone();
            return Err(Error::Incomplete { name });
        }
        Ok(&self.inode)
    }
}

/// The inodes of one generation, by slot.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    by_slot: BTreeMap<u32, Listed>,
    slot_by_name: HashMap<String, u32>,
    slot_by_disk_name: HashMap<String, u32>,
    slot_by_id: HashMap<SnapshotId, u32>,
}

impl Listing {
    pub(crate) fn read(store: &BlockStore, root: Entry, cache: &mut InodeCache) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut fresh = InodeCache::default();
        for (first_slot, leaf) in catalog_leaves(store, root)? {
            for (index, block) in leaf.iter_present() {
                let listed = cache.get(store, block, first_slot + index.get())?;
                fresh
                    .0
                    .insert(block, (store.inode_checksum(block)?, listed.clone()));
                listing.add(listed);
            }
        }
        *cache = fresh;
        Ok(listing)
    }

    fn add(&mut self, listed: Listed) {
        self.slot_by_id.insert(listed.inode.id, listed.slot);
        if listed.inode.disk.is_some() {
            self.slot_by_disk_name
                .insert(listed.inode.name.clone(), listed.slot);
        } else if !listed.inode.orphan {
            self.slot_by_name
                .insert(listed.inode.name.clone(), listed.slot);
        }
        self.by_slot.insert(listed.slot, listed);
    }

    /// All, also orphans and disks, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listed> {
        self.by_slot.values()
    }

    /// The snapshots that have a name still.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Listed> {
        let snapshots = self.iter().filter(|listed| listed.inode.disk.is_none());
        snapshots.filter(|listed| !listed.inode.orphan)
    }

    /// The disks.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &Listed> {
        self.iter().filter(|listed| listed.inode.disk.is_some())
    }

    /// The disk of this name.
    pub(crate) fn disk(&self, name: &str) -> Option<&Listed> {
        self.slot_by_disk_name
            .get(name)
            .and_then(|slot| self.by_slot.get(slot))
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Listed> {
        self.slot_by_name
            .get(name)
            .and_then(|slot| self.by_slot.get(slot))
    }

    pub(crate) fn by_id(&self, id: SnapshotId) -> Option<&Listed> {
        self.slot_by_id
            .get(&id)
            .and_then(|slot| self.by_slot.get(slot))
    }

    /// True when a snapshot that was listed before is still there, with the same maps. Ids are
    /// never used twice and a snapshot's blocks never change: what was read of it since then,
    /// without a lock and without a pin, was its own then.
    pub(crate) fn still_has(&self, inode: &Inode) -> bool {
        let now = self.by_id(inode.id);
        now.is_some_and(|listed| listed.inode.maps == inode.maps)
    }

    /// The lowest slot without an inode.
    pub(crate) fn free_slot(&self) -> Result<u32> {
        let mut free = 0;
        for slot in self.by_slot.keys() {
            if *slot != free {
                break;
            }
            free += 1;
        }
        if free < SNAPSHOTS_MAX {
            Ok(free)
        } else {
            Err(Error::TooManySnapshots {
                count: SNAPSHOTS_MAX,
            })
        }
    }
}

impl InodeCache {
    fn get(&self, store: &BlockStore, block: BlockNo, slot: u32) -> Result<Listed> {
        let known = self.0.get(&block).filter(|(_, listed)| listed.slot == slot);
        if let Some((checksum, listed)) = known
            && store.inode_checksum(block)? == *checksum
        {
            return Ok(listed.clone());
        }
        Ok(Listed {
            slot,
            block,
            inode: Arc::new(store.inode(block, slot)?),
        })
    }
}

/// The leaves of the catalog with the slot that each begins with.
fn catalog_leaves(store: &BlockStore, root: Entry) -> Result<Vec<(u32, Arc<LeafBlocks>)>> {
    let place = NodePlace::root(NodeKind::Catalog, CATALOG_HEIGHT);
    let Entry::Node { block, crc24 } = root else {
        return Ok(Vec::new());
    };
    let Node::Inner(entries) = store.node(block, &place.expect(crc24))? else {
        return Ok(Vec::new());
    };
    let mut leaves = Vec::new();
    for index in 0..INNER_ENTRIES {
        if let ChunkMap::Frames(leaf) = leaf_map(store, entries[index], place.child(index))? {
            leaves.push((index as u32 * CHUNK_BLOCKS, leaf));
        }
    }
    Ok(leaves)
}

//! Digests of the chunks of snapshots whose root this process has computed. Of the next snapshot
//! only chunks are read that differ.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::identity::ContentRoot;
use crate::layout::inode::MapKind;
use crate::number::ChunkIndex;
use crate::stream::ChunkDigest;

/// Snapshots whose digests are kept: the base of a difference, and what it makes.
const KEPT: usize = 2;

/// Digests of the chunks of one snapshot; `None` for a chunk that counts as a hole.
#[derive(Debug, Default)]
pub(crate) struct ChunkDigests(HashMap<(MapKind, ChunkIndex), Option<ChunkDigest>>);

impl ChunkDigests {
    pub(crate) fn get(&self, map: MapKind, index: ChunkIndex) -> Option<Option<ChunkDigest>> {
        self.0.get(&(map, index)).copied()
    }

    pub(crate) fn add(&mut self, map: MapKind, index: ChunkIndex, digest: Option<ChunkDigest>) {
        self.0.insert((map, index), digest);
    }
}

/// The digests that a process remembers, by the root of the snapshot. A snapshot does not change.
#[derive(Debug, Default)]
pub(crate) struct KnownDigests(Mutex<VecDeque<(ContentRoot, Arc<ChunkDigests>)>>);

impl KnownDigests {
    pub(crate) fn of(&self, root: ContentRoot) -> Option<Arc<ChunkDigests>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(of, _)| *of == root);
        found.map(|(_, digests)| Arc::clone(digests))
    }

    pub(crate) fn keep(&self, root: ContentRoot, digests: ChunkDigests) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, _)| *of != root);
        known.truncate(KEPT - 1);
        known.push_front((root, Arc::new(digests)));
    }
}

//! Roots of the content of snapshots of this pool: computed once, and kept in the inode.

use std::sync::Arc;

use super::content::Content;
use crate::catalog_lock::CatalogLock;
use crate::chunk_digests::ChunkDigests;
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::identity::ContentRoot;
use crate::layout::inode::{FileMap, Inode, MapKind, SnapshotKind};
use crate::number::{ChunkIndex, SnapshotId};
use crate::stream::{RootHasher, StreamDisk};

/// The roots of a snapshot, and of one that it may share chunks with, as far as they are not known.
/// A chunk that both have is read once, and not at all where this process knows its digest.
pub(super) struct Roots<'p> {
    pool: &'p Pool,
    kind: SnapshotKind,
    known: [Option<ContentRoot>; 2],
    hashers: [Option<RootHasher>; 2],
    /// Digests of the second one's chunks, if they are known.
    second: Option<Arc<ChunkDigests>>,
    /// Digests of the first one's chunks.
    first: ChunkDigests,
    map: MapKind,
    content: Content,
}

impl<'p> Roots<'p> {
    /// Begins with their states; there may be no second one.
    pub(super) fn begin(pool: &'p Pool, first: &Inode, second: Option<&Inode>) -> Result<Self> {
        let hasher = |inode: &Inode| -> Result<Option<RootHasher>> {
            if inode.content_root.is_some() {
                return Ok(None);
            }
            let bytes = inode.memory()?.size_bytes();
            let state = pool.state_of(inode)?;
            Ok(Some(RootHasher::begin(inode.kind, bytes, &state)))
        };
        Ok(Self {
            pool,
            kind: first.kind,
            known: [
                first.content_root,
                second.and_then(|inode| inode.content_root),
            ],
            hashers: [hasher(first)?, second.map(hasher).transpose()?.flatten()],
            second: second
                .and_then(|inode| inode.content_root)
                .and_then(|root| pool.chunk_digests.of(root)),
            first: ChunkDigests::default(),
            map: MapKind::Memory,
            content: Content::new(),
        })
    }

    /// Begins a map, which both have.
    pub(super) fn map(&mut self, map: &FileMap) {
        self.map = map.kind;
        if let Some(disk) = stream_disk(map) {
            for hasher in self.hashers.iter_mut().flatten() {
                hasher.disk(&disk);
            }
        }
    }

    /// Adds what they have in a chunk. Chunks come in order; holes need not come.
    pub(super) fn chunk(&mut self, index: ChunkIndex, maps: [&ChunkMap; 2]) -> Result<()> {
        let [first, second] = maps;
        let is_shared = first == second;
        let known = self.second.as_ref();
        let known = known.and_then(|digests| digests.get(self.map, index));
        let mut shared = known.filter(|_| is_shared);
        if let Some(hasher) = &mut self.hashers[0] {
            let digest = match shared {
                Some(digest) => digest,
                None => self.content.digest(self.pool, self.kind, first)?,
            };
            hasher.add(index, digest);
            self.first.add(self.map, index, digest);
            shared = is_shared.then_some(digest);
        }
        if let Some(hasher) = &mut self.hashers[1] {
            let digest = match shared {
                Some(digest) => digest,
                None => self.content.digest(self.pool, self.kind, second)?,
            };
            hasher.add(index, digest);
        }
        Ok(())
    }

    /// Both roots, once all chunks were added. There is always one of the first.
    pub(super) fn finish(self) -> [Option<ContentRoot>; 2] {
        let [first, second] = self.hashers;
        let first = first.map(|hasher| hasher.finish());
        if let Some(root) = first {
            self.pool.chunk_digests.keep(root, self.first);
        }
        [
            self.known[0].or(first),
            self.known[1].or(second.map(|hasher| hasher.finish())),
        ]
    }
}

/// The root of a snapshot that is being received.
pub(super) struct ReceivedRoot {
    pool: Arc<Pool>,
    kind: SnapshotKind,
    /// None before the state has arrived.
    hasher: Option<RootHasher>,
    digests: ChunkDigests,
    /// Digests of the chunks of the base, if they are known.
    base: Option<Arc<ChunkDigests>>,
    content: Content,
}

impl ReceivedRoot {
    pub(super) fn begin(
        pool: &Arc<Pool>,
        kind: SnapshotKind,
        base: Option<ContentRoot>,
    ) -> ReceivedRoot {
        ReceivedRoot {
            kind,
            hasher: None,
            digests: ChunkDigests::default(),
            base: base.and_then(|root| pool.chunk_digests.of(root)),
            content: Content::new(),
            pool: Arc::clone(pool),
        }
    }

    /// Adds the saved state, which comes first.
    pub(super) fn state(&mut self, memory_bytes: u64, state: &[u8]) {
        self.hasher = Some(RootHasher::begin(self.kind, memory_bytes, state));
    }

    /// Begins a disk.
    pub(super) fn disk(&mut self, disk: &StreamDisk) {
        if let Some(hasher) = &mut self.hasher {
            hasher.disk(disk);
        }
    }

    /// Adds what the snapshot will have in the next chunk. One that is as in the base is not read
    /// where this process knows its digest.
    pub(super) fn chunk(
        &mut self,
        (kind, index): (MapKind, ChunkIndex),
        map: &ChunkMap,
        is_of_base: bool,
    ) -> Result<()> {
        let no_state = || Error::stream_damaged("it has no state");
        let hasher = self.hasher.as_mut().ok_or_else(no_state)?;
        let base = self.base.as_ref().filter(|_| is_of_base);
        let digest = match base.and_then(|digests| digests.get(kind, index)) {
            Some(digest) => digest,
            None => self.content.digest(&self.pool, self.kind, map)?,
        };
        hasher.add(index, digest);
        self.digests.add(kind, index, digest);
        Ok(())
    }

    /// The root; none before the state has arrived.
    pub(super) fn root(&self) -> Option<ContentRoot> {
        self.hasher.as_ref().map(RootHasher::finish)
    }

    /// Remembers the digests for the next difference.
    pub(super) fn keep(&mut self) {
        if let Some(root) = self.root() {
            let digests = std::mem::take(&mut self.digests);
            self.pool.chunk_digests.keep(root, digests);
        }
    }
}

/// The root of a snapshot that the caller pins. All of its memory is read if it is not known.
///
/// # Errors
/// [`crate::Error::Damaged`], [`crate::Error::Io`].
pub(super) fn root_of(pool: &Arc<Pool>, inode: &Inode) -> Result<ContentRoot> {
    if let Some(root) = inode.content_root {
        return Ok(root);
    }
    computed_root(pool, inode)
}

/// The root of the content of a snapshot that the caller pins, whatever its inode says. All of its
/// memory is read.
///
/// # Errors
/// [`crate::Error::Damaged`], [`crate::Error::Io`].
pub(super) fn computed_root(pool: &Arc<Pool>, inode: &Inode) -> Result<ContentRoot> {
    let bytes = inode.memory()?.size_bytes();
    let mut hasher = RootHasher::begin(inode.kind, bytes, &pool.state_of(inode)?);
    let mut content = Content::new();
    for map in &inode.maps {
        if let Some(disk) = stream_disk(map) {
            hasher.disk(&disk);
        }
        for chunk in FrameMap::new(pool, inode.id, map).iter_present() {
            let (index, map) = chunk?;
            hasher.add(index, content.digest(pool, inode.kind, &map)?);
        }
    }
    Ok(hasher.finish())
}

/// The disk that a map is of, as a stream has it.
pub(super) fn stream_disk(map: &FileMap) -> Option<StreamDisk> {
    Some(StreamDisk {
        name: *map.disk()?,
        size_bytes: map.size_bytes(),
    })
}

/// Keeps the root of a snapshot in its inode, if that is possible: else it is computed again the
/// next time.
pub(super) fn keep_root(pool: &Pool, inode: &Inode, root: ContentRoot) {
    if inode.content_root.is_none()
        && let Err(error) = try_to_keep_root(pool, inode.id, root)
    {
        tracing::warn!(%error, name = inode.name, "could not keep the root of a snapshot");
    }
}

/// Amends the inode, unless the pool is of a format version without roots.
fn try_to_keep_root(pool: &Pool, id: SnapshotId, root: ContentRoot) -> Result<()> {
    let mut lock = CatalogLock::take(pool)?;
    let listing = lock.listing()?;
    let Some(listed) = listing.by_id(id) else {
        return Ok(());
    };
    let is_known = listed.inode.content_root.is_some();
    let is_whole = !listed.inode.incomplete && !listed.inode.orphan;
    if is_known || !is_whole || !lock.current()?.superblock.keeps_roots() {
        return Ok(());
    }
    let amended = Inode {
        content_root: Some(root),
        ..Inode::clone(&listed.inode)
    };
    lock.amend(listed, &amended)
}

//! Roots of the content of snapshots of this pool: computed once, and kept in the inode.

use std::sync::Arc;

use super::content::Content;
use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::error::Result;
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::identity::ContentRoot;
use crate::layout::inode::{FileMap, Inode, SnapshotKind};
use crate::number::{ChunkIndex, SnapshotId};
use crate::stream::{ChunkDigest, RootHasher, StreamDisk};

/// The roots of a snapshot, and of one that it may share chunks with, as far as they are not known.
/// A chunk that both have is read once.
pub(super) struct Roots<'p> {
    pool: &'p Pool,
    kind: SnapshotKind,
    known: [Option<ContentRoot>; 2],
    hashers: [Option<RootHasher>; 2],
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
            content: Content::new(),
        })
    }

    /// Begins a disk, which both have.
    pub(super) fn disk(&mut self, disk: &StreamDisk) {
        for hasher in self.hashers.iter_mut().flatten() {
            hasher.disk(disk);
        }
    }

    /// Adds what they have in a chunk. Chunks come in order; holes need not come.
    pub(super) fn chunk(&mut self, index: ChunkIndex, maps: [&ChunkMap; 2]) -> Result<()> {
        let is_shared = maps[0] == maps[1];
        let mut last: Option<Option<ChunkDigest>> = None;
        for (hasher, map) in self.hashers.iter_mut().zip(maps) {
            let Some(hasher) = hasher else { continue };
            let digest = match last.filter(|_| is_shared) {
                Some(digest) => digest,
                None => self.content.digest(self.pool, self.kind, map)?,
            };
            hasher.add(index, digest);
            last = Some(digest);
        }
        Ok(())
    }

    /// Both roots, once all chunks were added. There is always one of the first.
    pub(super) fn finish(self) -> [Option<ContentRoot>; 2] {
        let [first, second] = self.hashers;
        [
            self.known[0].or(first.map(|hasher| hasher.finish())),
            self.known[1].or(second.map(|hasher| hasher.finish())),
        ]
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

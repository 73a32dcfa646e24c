//! The whole content of a snapshot, read chunk by chunk for what is no stream.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use super::MoveProgress;
use super::content::Content;
use super::root::{keep_root, root_of, stream_disk};
use super::send::pinned;
use crate::chunk_digests::ChunkDigests;
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::Holder;
use crate::identity::{ContentRoot, Identity};
use crate::layout::inode::{FileMap, Inode};
use crate::number::{ChunkIndex, FrameSet};
use crate::stream::{RootHasher, StreamHeader};

/// A snapshot that is pinned as long as its content is read.
pub struct WholeContent {
    pool: Arc<Pool>,
    _holder: Holder,
    inode: Arc<Inode>,
    parent: Option<Identity>,
    /// The root, once all chunks were given.
    root: OnceLock<ContentRoot>,
}

/// A chunk of memory or of a disk.
#[derive(Debug, Clone, Copy)]
pub struct WholeChunk<'c> {
    /// 0: memory; 1 to 8: the disk at this place in the header, less one.
    pub map: usize,
    /// The chunk.
    pub index: ChunkIndex,
    /// The frames that are there. In a snapshot of a VM frames of zeros are not.
    pub there: FrameSet,
    /// All 2 MiB of the chunk.
    pub content: &'c [u8],
}

/// Takes the chunks of a snapshot, one after the other.
pub trait ChunkVisitor {
    /// The errors of the visitor.
    type Error: From<Error>;

    /// Takes a chunk.
    ///
    /// # Errors
    /// Those of the visitor.
    fn chunk(&mut self, chunk: WholeChunk<'_>) -> Result<(), Self::Error>;

    /// Takes a chunk that is as in the snapshot before. False: it must be read all the same.
    fn same(&mut self, map: usize, index: ChunkIndex) -> bool;
}

/// The snapshot before, for which its chunks are not read that are the same.
struct Before<'b> {
    whole: &'b WholeContent,
    digests: Arc<ChunkDigests>,
}

impl Before<'_> {
    /// The map of the same memory or disk, if it has the same place: visitors know it by that.
    fn map_of(&self, place: usize, of: &FileMap) -> Option<FrameMap> {
        let inode = &self.whole.inode;
        let map = inode.maps.get(place).filter(|map| map.kind == of.kind)?;
        Some(FrameMap::new(&self.whole.pool, inode.id, map))
    }
}

/// True if a map has the same blocks in a chunk.
fn is_same(map: Option<&FrameMap>, index: ChunkIndex, blocks: &ChunkMap) -> Result<bool> {
    let Some(map) = map.filter(|map| index.get() < map.chunks_total()) else {
        return Ok(false);
    };
    Ok(map.chunk(index)? == *blocks)
}

impl Pool {
    /// Pins a snapshot for reading its whole content.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Incomplete`], [`Error::Io`].
    pub fn whole_content(self: &Arc<Self>, name: &str) -> Result<WholeContent> {
        let holder = self.hold("send")?;
        let (inode, parent) = pinned(self, &holder, name)?;
        Ok(WholeContent {
            pool: Arc::clone(self),
            _holder: holder,
            inode,
            parent,
            root: OnceLock::new(),
        })
    }
}

impl WholeContent {
    /// The identity of the snapshot.
    pub fn identity(&self) -> Identity {
        self.inode.identity
    }

    /// The root of the content. All of it is read if it is not known.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn root(&self) -> Result<ContentRoot> {
        let root = root_of(&self.pool, &self.inode)?;
        keep_root(&self.pool, &self.inode, root);
        Ok(root)
    }

    /// The saved state.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn state(&self) -> Result<Vec<u8>> {
        self.pool.state_of(&self.inode)
    }

    /// The header of a whole stream of it, with its parent's identity and without a spec.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn header(&self, root: ContentRoot, frames_written: u64) -> Result<StreamHeader> {
        let inode = &self.inode;
        Ok(StreamHeader {
            root: Some(root),
            frames_written: Some(frames_written),
            identity: inode.identity,
            base: None,
            parent: self.parent,
            kind: inode.kind,
            name: inode.name.clone(),
            memory_bytes: inode.memory()?.size_bytes(),
            disks: inode.maps.iter().filter_map(stream_disk).collect(),
            created_unix_ns: inode.created_unix_ns,
            frames_mapped: inode.frames_mapped,
            frames_new: inode.frames_new,
            state_bytes: inode.state_bytes,
            spec: String::new(),
        })
    }

    /// Gives all chunks that have something to a visitor, in order: of memory, then of each disk.
    /// Returns the root of the content. A chunk that is as in `before` is not read, if the visitor
    /// does without, and if this process has given the chunks of that snapshot before.
    ///
    /// # Errors
    /// [`Error::Damaged`], also when a block does not hold what its digest was made of;
    /// [`Error::Interrupted`]; [`Error::Io`]; and those of the visitor.
    pub fn each_chunk<V: ChunkVisitor>(
        &self,
        before: Option<&WholeContent>,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
        visitor: &mut V,
    ) -> Result<ContentRoot, V::Error> {
        let (pool, inode) = (&self.pool, &self.inode);
        let before = before.and_then(|whole| self.known_before(whole));
        let bytes_total = inode.maps.iter().map(|map| map.size_bytes()).sum();
        let memory_bytes = inode.memory()?.size_bytes();
        let mut hasher = RootHasher::begin(inode.kind, memory_bytes, &self.state()?);
        let mut digests = ChunkDigests::default();
        let mut content = Content::new();
        let mut bytes_before = 0;
        for (map, of) in inode.maps.iter().enumerate() {
            if let Some(disk) = stream_disk(of) {
                hasher.disk(&disk);
            }
            let map_before = before.as_ref().and_then(|before| before.map_of(map, of));
            for chunk in FrameMap::new(pool, inode.id, of).iter_present() {
                let (index, blocks) = chunk?;
                let progress = MoveProgress {
                    bytes_done: bytes_before + index.byte_offset(),
                    bytes_total,
                };
                if on_progress(progress).is_break() {
                    return Err(Error::Interrupted.into());
                }
                let known = before.as_ref();
                let known = known.and_then(|before| before.digests.get(of.kind, index));
                let is_same = known.is_some() && is_same(map_before.as_ref(), index, &blocks)?;
                let digest = match known.filter(|_| is_same) {
                    Some(None) => None,
                    Some(digest) if visitor.same(map, index) => digest,
                    _ => {
                        let digest = content.digest(pool, inode.kind, &blocks)?;
                        if digest.is_some() {
                            visitor.chunk(WholeChunk {
                                map,
                                index,
                                there: content.counted(inode.kind, &blocks.present()),
                                content: content.all(),
                            })?;
                        }
                        digest
                    }
                };
                hasher.add(index, digest);
                digests.add(of.kind, index, digest);
            }
            bytes_before += of.size_bytes();
        }
        let root = hasher.finish();
        keep_root(pool, inode, root);
        pool.chunk_digests.keep(root, digests);
        let _ = self.root.set(root);
        Ok(root)
    }

    /// A snapshot of the same pool and kind whose digests this process knows.
    fn known_before<'b>(&self, whole: &'b WholeContent) -> Option<Before<'b>> {
        let is_alike = Arc::ptr_eq(&self.pool, &whole.pool) && self.inode.kind == whole.inode.kind;
        let root = whole.root.get().filter(|_| is_alike)?;
        let digests = self.pool.chunk_digests.of(*root)?;
        Some(Before { whole, digests })
    }
}

impl std::fmt::Debug for WholeContent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("WholeContent")
            .field("name", &self.inode.name)
            .finish_non_exhaustive()
    }
}

//! The whole content of a snapshot, read chunk by chunk for what is no stream.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::MoveProgress;
use super::content::Content;
use super::root::{keep_root, root_of, stream_disk};
use super::send::pinned;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::Holder;
use crate::identity::{ContentRoot, Identity};
use crate::layout::inode::Inode;
use crate::number::{ChunkIndex, FrameSet};
use crate::stream::{RootHasher, StreamHeader};

/// A snapshot that is pinned as long as its content is read.
pub struct WholeContent {
    pool: Arc<Pool>,
    _holder: Holder,
    inode: Arc<Inode>,
    parent: Option<Identity>,
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

    /// Reads all chunks that have something, in order: of memory, then of each disk. Returns the
    /// root of the content.
    ///
    /// # Errors
    /// [`Error::Damaged`], also when a block does not hold what its digest was made of;
    /// [`Error::Interrupted`]; [`Error::Io`]; and those of `visit`.
    pub fn each_chunk<E: From<Error>>(
        &self,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
        visit: &mut dyn FnMut(WholeChunk<'_>) -> Result<(), E>,
    ) -> Result<ContentRoot, E> {
        let (pool, inode) = (&self.pool, &self.inode);
        let bytes_total = inode.maps.iter().map(|map| map.size_bytes()).sum();
        let memory_bytes = inode.memory()?.size_bytes();
        let mut hasher = RootHasher::begin(inode.kind, memory_bytes, &self.state()?);
        let mut content = Content::new();
        let mut bytes_before = 0;
        for (map, of) in inode.maps.iter().enumerate() {
            if let Some(disk) = stream_disk(of) {
                hasher.disk(&disk);
            }
            for chunk in FrameMap::new(pool, inode.id, of).iter_present() {
                let (index, blocks) = chunk?;
                let progress = MoveProgress {
                    bytes_done: bytes_before + index.byte_offset(),
                    bytes_total,
                };
                if on_progress(progress).is_break() {
                    return Err(Error::Interrupted.into());
                }
                let digest = content.digest(pool, inode.kind, &blocks)?;
                hasher.add(index, digest);
                let there = content.counted(inode.kind, &blocks.present());
                if digest.is_some() {
                    let content = content.all();
                    visit(WholeChunk {
                        map,
                        index,
                        there,
                        content,
                    })?;
                }
            }
            bytes_before += of.size_bytes();
        }
        let root = hasher.finish();
        keep_root(pool, inode, root);
        Ok(root)
    }
}

impl std::fmt::Debug for WholeContent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("WholeContent")
            .field("name", &self.inode.name)
            .finish_non_exhaustive()
    }
}

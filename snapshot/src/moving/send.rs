//! Sends a snapshot as a stream.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::MoveProgress;
use super::content::{Content, FRAME_BYTES, is_zero};
use super::root::{Roots, keep_root};
use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::diff::{chunk_at, next_index};
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::Holder;
use crate::identity::{BaseId, ContentRoot, Identity};
use crate::layout::inode::{FileMap, Inode, MapKind, SnapshotKind};
use crate::number::{BLOCK_SIZE_BYTES, ChunkIndex, FrameIndex, FrameSet};
use crate::stream::{BaseOf, StreamHeader, StreamWriter};

/// Options of sending a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SendOptions<'a> {
    /// Sends only the differences from this snapshot, which the receiving pool must have.
    pub since: Option<&'a str>,
    /// Tells the identity of the snapshot that it was taken after, by which a receiver finds that
    /// one and compares with it.
    pub lineage: bool,
    /// The compression level of zstd; 0 is its default.
    pub level: i32,
    /// The specification of the machine, as JSON, for people to read.
    pub spec: String,
}

/// The result of sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SendReport {
    /// The snapshot.
    pub name: String,
    /// The identity that it has in any pool.
    pub identity: Identity,
    /// The root of its content.
    pub content_root: ContentRoot,
    /// The snapshot that it was compared with.
    pub since: Option<String>,
    /// Frames whose content is in the stream.
    pub frames_sent: u64,
    /// Frames that only say that they are zeros now.
    pub frames_emptied: u64,
    /// Frames that are as in the other snapshot.
    pub frames_shared: u64,
    /// Frames that hold nothing but zeros, which are not sent.
    pub frames_zero: u64,
    /// Bytes of the frames and the state that are in the stream.
    pub bytes_raw: u64,
    /// Bytes of the stream.
    pub bytes_stream: u64,
}

impl Pool {
    /// Writes a snapshot as a stream. It is pinned meanwhile. `on_progress` is called for each
    /// chunk of memory, which is read twice: for the roots of the content and to count, and to be
    /// sent. When it breaks, the stream ends early, and a receiver refuses it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Incomplete`]; [`Error::InvalidSnapshot`] when the two cannot
    /// be compared; [`Error::Damaged`], also when a block does not hold what its digest was
    /// made of; [`Error::Interrupted`]; [`Error::Io`].
    pub fn send(
        self: &Arc<Self>,
        name: &str,
        options: &SendOptions<'_>,
        out: &mut dyn Write,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<SendReport> {
        let holder = self.hold("send")?;
        let (snapshot, parent) = pinned(self, &holder, name)?;
        let base = match options.since {
            Some(since) => Some(pinned(self, &holder, since)?.0),
            None => None,
        };
        let memory = only_memory(&snapshot)?;
        if let Some(base) = &base
            && !base.has_shape_of(&snapshot)
        {
            return Err(Error::invalid(format!(
                "'{name}' and '{}' cannot be compared: they are of different kinds, or of memories \
                 of different sizes",
                base.name
            )));
        }
        let mut sending = Sending::new(self, &snapshot, base.as_deref())?;
        let survey = sending.survey(on_progress)?;
        let header = StreamHeader {
            root: Some(survey.root),
            frames_written: Some(survey.frames_written),
            identity: snapshot.identity,
            base: base
                .as_ref()
                .zip(survey.base_root)
                .map(|(base, root)| BaseOf {
                    id: BaseId::Content(root),
                    name: base.name.clone(),
                }),
            parent: parent.filter(|_| options.lineage),
            kind: snapshot.kind,
            name: snapshot.name.clone(),
            memory_bytes: memory.size_bytes(),
            created_unix_ns: snapshot.created_unix_ns,
            frames_mapped: snapshot.frames_mapped,
            frames_new: snapshot.frames_new,
            state_bytes: snapshot.state_bytes,
            spec: options.spec.clone(),
        };
        let mut writer = StreamWriter::begin(out, &header, options.level)?;
        writer.state(&self.state_of(&snapshot)?)?;
        sending.send(&mut writer, on_progress)?;
        let (totals, bytes_stream) = writer.finish()?;
        Ok(SendReport {
            name: snapshot.name.clone(),
            identity: snapshot.identity,
            content_root: survey.root,
            since: base.as_ref().map(|base| base.name.clone()),
            frames_sent: totals.frames_written,
            frames_emptied: totals.frames_emptied,
            frames_shared: sending.frames_shared,
            frames_zero: sending.frames_zero,
            bytes_raw: totals.frames_written * BLOCK_SIZE_BYTES + u64::from(snapshot.state_bytes),
            bytes_stream,
        })
    }
}

/// The memory of a snapshot that has no other map: a stream carries nothing else.
fn only_memory(inode: &Inode) -> Result<&FileMap> {
    match &inode.maps[..] {
        [map] if map.kind == MapKind::Memory => Ok(map),
        maps => Err(Error::invalid(format!(
            "a stream carries one map, of memory; '{}' has {} maps",
            inode.name,
            maps.len()
        ))),
    }
}

/// Pins a snapshot; its inode, and what the one is that it was taken after.
fn pinned(pool: &Pool, holder: &Holder, name: &str) -> Result<(Arc<Inode>, Option<Identity>)> {
    let (entry, _) = holder.pin(name)?;
    let listing = CatalogLock::take(pool)?.listing()?;
    let listed = listing.by_id(entry.id);
    let inode = listed.map(|listed| Arc::clone(&listed.inode));
    let inode = inode.ok_or_else(|| pool.not_found(name, &listing))?;
    let parent = inode.parent.and_then(|id| listing.by_id(id));
    Ok((inode, parent.map(|listed| listed.inode.identity)))
}

/// The findings of the first look at the memory.
struct Survey {
    root: ContentRoot,
    base_root: Option<ContentRoot>,
    frames_written: u64,
}

struct Sending<'p> {
    pool: &'p Arc<Pool>,
    snapshot: &'p Inode,
    base: Option<&'p Inode>,
    maps: [Option<FrameMap>; 2],
    now: Content,
    before: Content,
    /// The frames of the chunk that are sent, one after the other.
    sent: Vec<u8>,
    frames_shared: u64,
    frames_zero: u64,
}

impl<'p> Sending<'p> {
    fn new(
        pool: &'p Arc<Pool>,
        snapshot: &'p Inode,
        base: Option<&'p Inode>,
    ) -> Result<Sending<'p>> {
        let base_map = base.map(|base| FrameMap::of_memory(pool, base));
        Ok(Sending {
            pool,
            snapshot,
            base,
            maps: [
                Some(FrameMap::of_memory(pool, snapshot)?),
                base_map.transpose()?,
            ],
            now: Content::new(),
            before: Content::new(),
            sent: Vec::new(),
            frames_shared: 0,
            frames_zero: 0,
        })
    }

    /// Reads the memory for the roots that are not known, which are kept, and for the number of
    /// frames that will be sent.
    fn survey(
        &mut self,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<Survey> {
        let mut roots = Roots::begin(self.pool, self.snapshot, self.base)?;
        let mut frames_written = 0;
        self.each_chunk(0, on_progress, &mut |sending, index, now, before| {
            roots.chunk(index, [now, before])?;
            frames_written += u64::from(sending.compare(now, before)?.0.count());
            Ok(())
        })?;
        let [root, base_root] = roots.finish();
        let root = root.ok_or_else(|| Error::invalid("no root of the content was computed"))?;
        keep_root(self.pool, self.snapshot, root);
        if let (Some(base), Some(root)) = (self.base, base_root) {
            keep_root(self.pool, base, root);
        }
        Ok(Survey {
            root,
            base_root,
            frames_written,
        })
    }

    /// Sends the memory.
    fn send(
        &mut self,
        writer: &mut StreamWriter<'_>,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        (self.frames_shared, self.frames_zero) = (0, 0);
        let behind = self.memory_bytes()?;
        self.each_chunk(behind, on_progress, &mut |sending, index, now, before| {
            let (written, emptied) = sending.compare(now, before)?;
            if written.is_empty() && emptied.is_empty() {
                return Ok(());
            }
            writer.chunk(index, &written, &emptied, &sending.sent)
        })
    }

    fn memory_bytes(&self) -> Result<u64> {
        Ok(self.snapshot.memory()?.size_bytes())
    }

    /// Visits the chunks that either has, in order. `bytes_before` have been visited already.
    fn each_chunk(
        &mut self,
        bytes_before: u64,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
        visit: &mut dyn FnMut(&mut Self, ChunkIndex, &ChunkMap, &ChunkMap) -> Result<()>,
    ) -> Result<()> {
        let bytes_total = 2 * self.memory_bytes()?;
        let maps = std::mem::take(&mut self.maps);
        let mut sides = maps
            .each_ref()
            .map(|map| map.iter().flat_map(FrameMap::iter_present).peekable());
        while let Some(index) = next_index(&mut sides)? {
            let progress = MoveProgress {
                bytes_done: bytes_before + index.byte_offset(),
                bytes_total,
            };
            if on_progress(progress).is_break() {
                return Err(Error::Interrupted);
            }
            let [now, before] = sides.each_mut().map(|side| chunk_at(side, index));
            visit(self, index, &now, &before)?;
        }
        drop(sides);
        self.maps = maps;
        Ok(())
    }

    /// The frames of a chunk whose content is to be sent, which `sent` has then, and those that
    /// are holes now.
    fn compare(&mut self, now: &ChunkMap, before: &ChunkMap) -> Result<(FrameSet, FrameSet)> {
        let kind = self.snapshot.kind;
        let mut different = FrameSet::EMPTY;
        for frame in FrameIndex::all() {
            match (now.block(frame), before.block(frame)) {
                (None, None) => {}
                (now, before) if now == before => self.frames_shared += 1,
                _ => {
                    different.insert(frame);
                }
            }
        }
        self.now.read(self.pool, now, &different)?;
        self.before.read(self.pool, before, &different)?;
        let (mut written, mut emptied) = (FrameSet::EMPTY, FrameSet::EMPTY);
        self.sent.clear();
        for frame in different.places() {
            let now = now.block(frame).map(|_| self.now.frame(frame));
            let before = before.block(frame).map(|_| self.before.frame(frame));
            if now == before {
                self.frames_shared += 1;
                continue;
            }
            // To a guest a hole is a frame of zeros. A page of a process image is there or not.
            let is_nothing = |bytes: Option<&[u8]>| {
                bytes.is_none_or(|bytes| kind == SnapshotKind::Vm && is_zero(bytes))
            };
            match now {
                Some(bytes) if !is_nothing(now) => {
                    written.insert(frame);
                    self.sent.extend_from_slice(bytes);
                }
                _ if is_nothing(before) => self.frames_zero += 1,
                _ => {
                    emptied.insert(frame);
                }
            }
        }
        debug_assert_eq!(self.sent.len(), written.count() as usize * FRAME_BYTES);
        Ok((written, emptied))
    }
}

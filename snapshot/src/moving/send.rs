//! Sends a snapshot as a stream.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::MoveProgress;
use super::content::{Content, FRAME_BYTES, is_zero};
use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::diff::{chunk_at, next_index};
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::Holder;
use crate::identity::Identity;
use crate::layout::inode::{FileMap, Inode, MapKind, SnapshotKind};
use crate::number::{BLOCK_SIZE_BYTES, ChunkIndex, FrameIndex, FrameSet};
use crate::stream::{BaseOf, StreamHeader, StreamWriter};

/// Options of sending a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SendOptions<'a> {
    /// Sends only the differences from this snapshot, which the receiving pool must have.
    pub since: Option<&'a str>,
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
    /// chunk of memory; when it breaks, the stream ends early, and a receiver refuses it.
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
        let header = StreamHeader {
            identity: snapshot.identity,
            base: base.as_ref().map(|base| BaseOf {
                identity: base.identity,
                name: base.name.clone(),
            }),
            parent,
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
        let mut sending = Sending::new(self, snapshot.kind);
        let base_map = match &base {
            Some(base) => Some(FrameMap::of_memory(self, base)?),
            None => None,
        };
        let maps = [Some(FrameMap::of_memory(self, &snapshot)?), base_map];
        let mut sides = maps
            .each_ref()
            .map(|map| map.iter().flat_map(FrameMap::iter_present).peekable());
        while let Some(index) = next_index(&mut sides)? {
            let progress = MoveProgress {
                bytes_done: index.byte_offset(),
                bytes_total: memory.size_bytes(),
            };
            if on_progress(progress).is_break() {
                return Err(Error::Interrupted);
            }
            let [now, before] = sides.each_mut().map(|side| chunk_at(side, index));
            sending.chunk(index, &now, &before, &mut writer)?;
        }
        let (totals, bytes_stream) = writer.finish()?;
        Ok(SendReport {
            name: snapshot.name.clone(),
            identity: snapshot.identity,
            since: base.map(|base| base.name.clone()),
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

struct Sending<'p> {
    pool: &'p Pool,
    kind: SnapshotKind,
    now: Content,
    before: Content,
    /// The frames of the chunk that are sent, one after the other.
    sent: Vec<u8>,
    frames_shared: u64,
    frames_zero: u64,
}

impl<'p> Sending<'p> {
    fn new(pool: &'p Pool, kind: SnapshotKind) -> Sending<'p> {
        Sending {
            pool,
            kind,
            now: Content::new(),
            before: Content::new(),
            sent: Vec::new(),
            frames_shared: 0,
            frames_zero: 0,
        }
    }

    fn chunk(
        &mut self,
        index: ChunkIndex,
        now: &ChunkMap,
        before: &ChunkMap,
        writer: &mut StreamWriter<'_>,
    ) -> Result<()> {
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
        if different.is_empty() {
            return Ok(());
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
                bytes.is_none_or(|bytes| self.kind == SnapshotKind::Vm && is_zero(bytes))
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
        if written.is_empty() && emptied.is_empty() {
            return Ok(());
        }
        writer.chunk(index, &written, &emptied, &self.sent)
    }
}

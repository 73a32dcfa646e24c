//! Sends a snapshot as a stream.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::MoveProgress;
use super::content::{Content, FRAME_BYTES, is_zero};
use super::root::{Roots, keep_root, root_of, stream_disk};
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
    /// chunk of memory and disks, which is read twice: for the roots of the content and to count,
    /// and to be sent. When it breaks, the stream ends early, and a receiver refuses it.
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
        let memory_bytes = snapshot.memory()?.size_bytes();
        if let Some(base) = &base
            && !is_comparable(base, &snapshot)
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
            memory_bytes,
            disks: snapshot.maps.iter().filter_map(stream_disk).collect(),
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

/// True for snapshots of one kind with memories of one size. Disks are compared that both have, by
/// the same name and with the same size; the others are sent as a whole.
fn is_comparable(left: &Inode, right: &Inode) -> bool {
    let memory = |inode: &Inode| inode.map(MapKind::Memory).map(FileMap::size_bytes);
    left.kind == right.kind && memory(left) == memory(right)
}

/// Pins a snapshot; its inode, and what the one is that it was taken after.
pub(super) fn pinned(
    pool: &Pool,
    holder: &Holder,
    name: &str,
) -> Result<(Arc<Inode>, Option<Identity>)> {
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

/// A step through the maps of a snapshot and its base.
enum Step<'s> {
    /// The next map begins.
    Map(&'s FileMap),
    /// A chunk of the map at this place: of the snapshot, and of the base.
    Chunk(usize, ChunkIndex, &'s ChunkMap, &'s ChunkMap),
}

struct Sending<'p> {
    pool: &'p Arc<Pool>,
    snapshot: &'p Inode,
    base: Option<&'p Inode>,
    /// Its maps, and those of the base at the same place.
    maps: Vec<(FileMap, [Option<FrameMap>; 2])>,
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
        let maps = snapshot.maps.iter().map(|map| {
            let of_base = base.and_then(|base| {
                let like = base.map(map.kind);
                let like = like.filter(|like| like.size_bytes() == map.size_bytes())?;
                Some(FrameMap::new(pool, base.id, like))
            });
            (*map, [Some(FrameMap::new(pool, snapshot.id, map)), of_base])
        });
        let maps = maps.collect();
        Ok(Sending {
            pool,
            snapshot,
            base,
            maps,
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
        // Both roots by one reading, where both have the same disks.
        let same = |base: &&Inode| base.has_shape_of(self.snapshot);
        let mut roots = Roots::begin(self.pool, self.snapshot, self.base.filter(same))?;
        let mut frames_written = 0;
        self.each_chunk(0, on_progress, &mut |sending, step| {
            match step {
                Step::Map(map) => roots.map(map),
                Step::Chunk(_, index, now, before) => {
                    roots.chunk(index, [now, before])?;
                    frames_written += u64::from(sending.compare(now, before)?.0.count());
                }
            }
            Ok(())
        })?;
        let [root, base_root] = roots.finish();
        let base_root = match self.base {
            Some(base) if base_root.is_none() => Some(root_of(self.pool, base)?),
            _ => base_root,
        };
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

    /// Sends memory and disks.
    fn send(
        &mut self,
        writer: &mut StreamWriter<'_>,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        (self.frames_shared, self.frames_zero) = (0, 0);
        let behind = self.bytes_total();
        self.each_chunk(behind, on_progress, &mut |sending, step| {
            let Step::Chunk(map, index, now, before) = step else {
                return Ok(());
            };
            let (written, emptied) = sending.compare(now, before)?;
            if written.is_empty() && emptied.is_empty() {
                return Ok(());
            }
            writer.chunk(map, index, &written, &emptied, &sending.sent)
        })
    }

    /// Bytes of memory and of all disks.
    fn bytes_total(&self) -> u64 {
        self.maps.iter().map(|(map, _)| map.size_bytes()).sum()
    }

    /// Visits the maps, and the chunks that either has, in order. `bytes_before` have been visited
    /// already.
    fn each_chunk(
        &mut self,
        bytes_before: u64,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
        visit: &mut dyn FnMut(&mut Self, Step<'_>) -> Result<()>,
    ) -> Result<()> {
        let bytes_total = 2 * self.bytes_total();
        let mut bytes_before = bytes_before;
        let maps = std::mem::take(&mut self.maps);
        for (at, (map, sides)) in maps.iter().enumerate() {
            visit(self, Step::Map(map))?;
            let mut sides = sides
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
                visit(self, Step::Chunk(at, index, &now, &before))?;
            }
            bytes_before += map.size_bytes();
        }
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

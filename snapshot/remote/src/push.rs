//! Pushes: a snapshot of a pool into the store.
//!
//! A push leaves a marker first, and reads afterwards which packs are condemned. So a collection
//! sees the push, or the push sees what the collection is about to delete (`gc`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, ChunkIndex, ChunkVisitor, ContentRoot, FaultPoint, Identity, MoveProgress,
    Pool, WholeChunk, WholeContent, fault_point,
};

use crate::error::{Error, Result};
use crate::keys::PieceName;
use crate::known::{Indexes, Known, PiecePlace};
use crate::layout::PIECE_BYTES;
use crate::layout::ids::{ObjectId, Series};
use crate::layout::manifest::{Head, Manifest, PIECES_MAX, PieceRow};
use crate::objects::Traffic;
use crate::piece::{BITS_BYTES, CHUNK_PIECES, PieceMaker, content_of};
use crate::store::Store;
use crate::uploads::Uploads;

/// Options of a push.
#[derive(Debug, Clone, Copy, Default)]
pub struct PushOptions {
    /// The compression level of zstd; 0 is its default.
    pub level: i32,
}

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushReport {
    /// The snapshot.
    pub name: String,
    /// The identity that it has in any pool.
    pub identity: Identity,
    /// The root of its content.
    pub content_root: ContentRoot,
    /// True if the store had the same snapshot under this name: nothing was sent then.
    pub was_there: bool,
    /// Pieces that the snapshot is made of.
    pub pieces_count: u64,
    /// Those of them that the store lacked.
    pub new_pieces_count: u64,
    /// Bytes of memory and disks in pieces, zeros left out.
    pub content_bytes: u64,
    /// Those of them that were in pieces that the store lacked.
    pub new_content_bytes: u64,
    /// Bytes of chunks that were read; others were known from the snapshot before.
    pub read_bytes: u64,
    /// Packs that were written.
    pub packs_count: u64,
    /// Requests, and bytes sent and received.
    pub traffic: Traffic,
}

/// Pushes one snapshot after the other. Of a snapshot it reads only chunks that differ from the one
/// before, and of the store only indexes of packs that are new.
#[derive(Debug)]
pub struct Pusher {
    store: Store,
    /// The series that its pushes are of, if they are of one.
    series: Option<Series>,
    /// True if dead pushes of the series may be in the store.
    may_have_dead: bool,
    has_conditional_writes: bool,
    indexes: Indexes,
    before: Option<Pushed>,
}

/// The snapshot that was pushed last, and the pieces of its chunks.
#[derive(Debug)]
struct Pushed {
    content: WholeContent,
    pieces: ChunkPieces,
}

type ChunkPieces = HashMap<(u32, ChunkIndex), Vec<ChunkPiece>>;

/// A piece of a chunk.
#[derive(Debug, Clone, Copy)]
struct ChunkPiece {
    /// Its place in the chunk.
    number: u32,
    name: PieceName,
    /// Bytes of its frames.
    bytes: u32,
}

/// A push under way: the marker in the store is its own.
struct Push<'s> {
    store: &'s Store,
    id: ObjectId,
    /// True while it is not known if the manifest is in the store.
    is_uncertain: Cell<bool>,
}

/// The pieces of a snapshot, as they are found and sent.
struct Sending<'s> {
    store: &'s Store,
    known: Known,
    uploads: Uploads<'s>,
    maker: PieceMaker,
    rows: Vec<PieceRow>,
    content: Vec<u8>,
    /// Pieces of the snapshot before, and of this one.
    before: Option<&'s ChunkPieces>,
    pieces: ChunkPieces,
    content_bytes: u64,
    new_content_bytes: u64,
    new_pieces_count: u64,
    read_bytes: u64,
}

impl Store {
    /// Stores a snapshot of a pool under its name, as [`Pusher::push`] does.
    ///
    /// # Errors
    /// As [`Pusher::push`].
    pub fn push(
        &self,
        pool: &Arc<Pool>,
        name: &str,
        options: &PushOptions,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<PushReport> {
        Pusher::new(self.clone()).push(pool, name, options, on_progress)
    }

    /// The report of a push of what is in the store already.
    fn pushed_before(&self, name: &str, content: &WholeContent, head: &Head) -> Result<PushReport> {
        let root = content.root()?;
        if head.header.root != Some(root) || head.header.identity != content.identity() {
            return Err(Error::NameTaken {
                name: name.to_owned(),
            });
        }
        Ok(PushReport {
            name: name.to_owned(),
            identity: head.header.identity,
            content_root: root,
            was_there: true,
            pieces_count: head.pieces.into(),
            new_pieces_count: 0,
            content_bytes: head.header.frames_written.unwrap_or(0) * BLOCK_SIZE_BYTES,
            new_content_bytes: 0,
            read_bytes: 0,
            packs_count: 0,
            traffic: self.traffic(),
        })
    }
}

impl Pusher {
    /// Pushes into a store.
    pub fn new(store: Store) -> Pusher {
        Pusher {
            store,
            series: None,
            may_have_dead: false,
            has_conditional_writes: false,
            indexes: Indexes::default(),
            before: None,
        }
    }

    /// Pushes the snapshots of a series, in which no other process pushes. What pushes of the
    /// series have left that died is ended.
    pub fn of_series(store: Store, name: &str) -> Pusher {
        let series = Series::new(store.keys.snapshot_hash(name));
        Pusher {
            series: Some(series),
            may_have_dead: true,
            ..Pusher::new(store)
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stores a snapshot of a pool under its name. Only what the store lacks is sent. The snapshot
    /// is in the store as a whole, or not at all. What an interrupted push has sent is found by the
    /// next one. `on_progress` is called for each chunk of memory and disks.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::PushEnded`]; [`Error::NoConditionalWrites`];
    /// [`Error::TooLarge`]; [`Error::Denied`], [`Error::Failed`]; [`Error::Pool`].
    pub fn push(
        &mut self,
        pool: &Arc<Pool>,
        name: &str,
        options: &PushOptions,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<PushReport> {
        let content = pool.whole_content(name)?;
        if let Some(head) = self.store.head(name)? {
            return self.store.pushed_before(name, &content, &head);
        }
        if !self.has_conditional_writes {
            self.store.check_conditional_writes()?;
            self.has_conditional_writes = true;
        }
        if let Some(series) = self.series.filter(|_| self.may_have_dead) {
            self.store.end_pushes_of(series)?;
        }
        self.may_have_dead = self.series.is_some();
        let push = Push {
            store: &self.store,
            id: match self.series {
                Some(series) => series.push()?,
                None => ObjectId::random()?,
            },
            is_uncertain: Cell::new(false),
        };
        let (store, before) = (&self.store, self.before.as_ref());
        store.objects.put(&Store::push_path(push.id), Vec::new())?;
        fault_point(FaultPoint::PushMarked);
        let known = Known::read(store, &mut self.indexes);
        let pushed =
            known.and_then(|known| push.send(name, &content, known, before, options, on_progress));
        if push.is_uncertain.get() {
            // The store may carry out the request later: until somebody ends this push by hand,
            // nothing that the manifest names is deleted.
            return pushed.map(|(report, _)| report);
        }
        // A marker that stays holds up collections, and nothing else.
        let ended = store.objects.delete(&Store::push_path(push.id));
        let (report, pieces) = pushed?;
        ended?;
        self.may_have_dead = false;
        let report = PushReport {
            traffic: store.traffic(),
            ..report
        };
        self.before = Some(Pushed { content, pieces });
        Ok(report)
    }
}

impl Push<'_> {
    fn send(
        &self,
        name: &str,
        content: &WholeContent,
        known: Known,
        before: Option<&Pushed>,
        options: &PushOptions,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<(PushReport, ChunkPieces)> {
        let mut sending = Sending {
            store: self.store,
            known,
            uploads: Uploads::new(self.store, self.id),
            maker: PieceMaker::new(options.level)?,
            rows: Vec::new(),
            content: Vec::new(),
            before: before.map(|before| &before.pieces),
            pieces: ChunkPieces::new(),
            content_bytes: 0,
            new_content_bytes: 0,
            new_pieces_count: 0,
            read_bytes: 0,
        };
        let before = before.map(|before| &before.content);
        let root = content.each_chunk(before, on_progress, &mut sending)?;
        sending.uploads.finish()?;
        let manifest = sending.manifest(self.id, content, root)?;
        let object = self.store.keys.snapshot_object(name);
        self.commit(name, &object, &manifest)?;
        let report = PushReport {
            name: name.to_owned(),
            identity: manifest.head.header.identity,
            content_root: root,
            was_there: false,
            pieces_count: manifest.pieces.len() as u64,
            new_pieces_count: sending.new_pieces_count,
            content_bytes: sending.content_bytes,
            new_content_bytes: sending.new_content_bytes,
            read_bytes: sending.read_bytes,
            packs_count: sending.uploads.packs_count,
            traffic: Traffic::default(),
        };
        Ok((report, sending.pieces))
    }

    /// Makes the snapshot exist, unless its name is taken, or somebody has ended this push.
    fn commit(&self, name: &str, object: &str, manifest: &Manifest) -> Result<()> {
        let bytes = manifest.encode(&self.store.keys, object)?;
        let path = Store::snapshot_path(object);
        self.assert_not_ended()?;
        self.is_uncertain.set(true);
        let is_new = self.store.objects.put_if_absent(&path, bytes)?;
        self.is_uncertain.set(false);
        if !is_new {
            // An answer that was lost on its way has the request repeated.
            let there = self.store.head(name)?;
            if there.is_none_or(|head| head.push != self.id) {
                return Err(Error::NameTaken {
                    name: name.to_owned(),
                });
            }
        }
        fault_point(FaultPoint::PushManifestPut);
        // Whoever ended it in between may have had packs deleted that the manifest names.
        self.assert_not_ended().inspect_err(|_| {
            if let Err(left) = self.store.objects.delete(&path) {
                tracing::warn!(%left, name, "could not take back a snapshot");
            }
        })
    }

    fn assert_not_ended(&self) -> Result<()> {
        match self.store.objects.has(&Store::push_path(self.id))? {
            true => Ok(()),
            false => Err(Error::PushEnded {
                push: self.id.to_string(),
            }),
        }
    }
}

impl ChunkVisitor for Sending<'_> {
    type Error = Error;

    /// Finds the pieces of a chunk in the store, or sends them.
    fn chunk(&mut self, chunk: WholeChunk<'_>) -> Result<()> {
        self.read_bytes += chunk.content.len() as u64;
        let map = chunk.map as u32;
        let mut pieces = Vec::new();
        for number in 0..CHUNK_PIECES {
            if !content_of(number, &chunk.there, chunk.content, &mut self.content) {
                continue;
            }
            let name = self.store.keys.piece_name(&self.content);
            let bytes = (self.content.len() - BITS_BYTES) as u32;
            let place = match self.known.place_of(&name) {
                Some(place) => place,
                None => {
                    let stored = self.maker.stored(&self.store.keys, &name, &self.content)?;
                    self.new_pieces_count += 1;
                    self.new_content_bytes += u64::from(bytes);
                    self.uploads.add(&mut self.known, name, &stored)?
                }
            };
            if self.rows.len() as u64 == u64::from(PIECES_MAX) {
                return Err(Error::TooLarge { limit: PIECES_MAX });
            }
            let piece = ChunkPiece {
                number,
                name,
                bytes,
            };
            self.add(map, chunk.index, &piece, place);
            pieces.push(piece);
        }
        self.pieces.insert((map, chunk.index), pieces);
        Ok(())
    }

    /// Takes the pieces of a chunk from the snapshot before, if the store still has all of them.
    fn same(&mut self, map: usize, index: ChunkIndex) -> bool {
        let map = map as u32;
        let Some(pieces) = self.before.and_then(|before| before.get(&(map, index))) else {
            return false;
        };
        let places = pieces.iter().map(|piece| self.known.place_of(&piece.name));
        let Some(places) = places.collect::<Option<Vec<PiecePlace>>>() else {
            return false;
        };
        if (self.rows.len() + pieces.len()) as u64 > u64::from(PIECES_MAX) {
            return false;
        }
        for (piece, place) in pieces.iter().zip(places) {
            self.add(map, index, piece, place);
        }
        self.pieces.insert((map, index), pieces.clone());
        true
    }
}

impl Sending<'_> {
    /// Adds a row to the manifest.
    fn add(&mut self, map: u32, index: ChunkIndex, piece: &ChunkPiece, place: PiecePlace) {
        self.content_bytes += u64::from(piece.bytes);
        self.rows.push(PieceRow {
            name: piece.name,
            map,
            index: (index.byte_offset() / PIECE_BYTES) as u32 + piece.number,
            pack: place.pack,
            offset: place.offset,
            bytes: place.bytes,
        });
    }

    /// The manifest, with the packs only that its pieces are in.
    fn manifest(
        &mut self,
        push: ObjectId,
        content: &WholeContent,
        root: ContentRoot,
    ) -> Result<Manifest> {
        let mut rows = std::mem::take(&mut self.rows);
        let mut packs: Vec<u32> = rows.iter().map(|row| row.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut places = HashSet::new();
        let mut stored_bytes = 0;
        for row in &mut rows {
            let place = PiecePlace {
                pack: row.pack,
                offset: row.offset,
                bytes: row.bytes,
            };
            if places.insert((place.pack, place.offset)) {
                stored_bytes += u64::from(place.bytes);
            }
            row.pack = packs.partition_point(|pack| *pack < row.pack) as u32;
        }
        let frames_written = self.content_bytes / BLOCK_SIZE_BYTES;
        let packs = packs.iter().map(|pack| self.known.packs[*pack as usize]);
        Ok(Manifest {
            head: Head {
                push,
                stored_bytes,
                pieces: rows.len() as u32,
                header: content.header(root, frames_written)?,
            },
            packs: packs.collect(),
            pieces: rows,
            state: content.state()?,
        })
    }
}

//! Pushes: a snapshot of a pool into the store.
//!
//! A push leaves a marker first, and reads afterwards which packs are condemned. So a collection
//! sees the push, or the push sees what the collection is about to delete (`gc`).

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, ContentRoot, FaultPoint, Identity, MoveProgress, Pool, WholeChunk,
    WholeContent, fault_point,
};

use crate::error::{Error, Result};
use crate::known::{Known, PiecePlace};
use crate::layout::PIECE_BYTES;
use crate::layout::ids::ObjectId;
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
    /// Packs that were written.
    pub packs_count: u64,
    /// Requests, and bytes sent and received.
    pub traffic: Traffic,
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
    content_bytes: u64,
    new_content_bytes: u64,
    new_pieces_count: u64,
}

impl Store {
    /// Stores a snapshot of a pool under its name. Only what the store lacks is sent. The snapshot
    /// is in the store as a whole, or not at all. What an interrupted push has sent is found by the
    /// next one. `on_progress` is called for each chunk of memory and disks.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::PushEnded`]; [`Error::NoConditionalWrites`];
    /// [`Error::TooLarge`]; [`Error::Denied`], [`Error::Failed`]; [`Error::Pool`].
    pub fn push(
        &self,
        pool: &Arc<Pool>,
        name: &str,
        options: &PushOptions,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<PushReport> {
        let content = pool.whole_content(name)?;
        if let Some(head) = self.head(name)? {
            return self.pushed_before(name, &content, &head);
        }
        self.check_conditional_writes()?;
        let push = Push {
            store: self,
            id: ObjectId::random()?,
            is_uncertain: Cell::new(false),
        };
        self.objects.put(&Store::push_path(push.id), Vec::new())?;
        fault_point(FaultPoint::PushMarked);
        let pushed = push.send(name, &content, options, on_progress);
        if push.is_uncertain.get() {
            // The store may carry out the request later: until somebody ends this push by hand,
            // nothing that the manifest names is deleted.
            return pushed;
        }
        // A marker that stays holds up collections, and nothing else.
        let ended = self.objects.delete(&Store::push_path(push.id));
        let report = pushed?;
        ended?;
        Ok(PushReport {
            traffic: self.traffic(),
            ..report
        })
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
            packs_count: 0,
            traffic: self.traffic(),
        })
    }
}

impl Push<'_> {
    fn send(
        &self,
        name: &str,
        content: &WholeContent,
        options: &PushOptions,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<PushReport> {
        let mut sending = Sending {
            store: self.store,
            known: Known::read(self.store)?,
            uploads: Uploads::new(self.store, self.id),
            maker: PieceMaker::new(options.level)?,
            rows: Vec::new(),
            content: Vec::new(),
            content_bytes: 0,
            new_content_bytes: 0,
            new_pieces_count: 0,
        };
        let root = content.each_chunk::<Error>(on_progress, &mut |chunk| sending.chunk(&chunk))?;
        sending.uploads.finish()?;
        let manifest = sending.manifest(self.id, content, root)?;
        let object = self.store.keys.snapshot_object(name);
        self.commit(name, &object, &manifest)?;
        Ok(PushReport {
            name: name.to_owned(),
            identity: manifest.head.header.identity,
            content_root: root,
            was_there: false,
            pieces_count: manifest.pieces.len() as u64,
            new_pieces_count: sending.new_pieces_count,
            content_bytes: sending.content_bytes,
            new_content_bytes: sending.new_content_bytes,
            packs_count: sending.uploads.packs_count,
            traffic: Traffic::default(),
        })
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

impl Sending<'_> {
    /// Finds the pieces of a chunk in the store, or sends them.
    fn chunk(&mut self, chunk: &WholeChunk<'_>) -> Result<()> {
        for number in 0..CHUNK_PIECES {
            if !content_of(number, &chunk.there, chunk.content, &mut self.content) {
                continue;
            }
            let name = self.store.keys.piece_name(&self.content);
            let frames_bytes = (self.content.len() - BITS_BYTES) as u64;
            self.content_bytes += frames_bytes;
            let place = match self.known.place_of(&name) {
                Some(place) => place,
                None => {
                    let stored = self.maker.stored(&self.store.keys, &name, &self.content)?;
                    self.new_pieces_count += 1;
                    self.new_content_bytes += frames_bytes;
                    self.uploads.add(&mut self.known, name, &stored)?
                }
            };
            if self.rows.len() as u64 == u64::from(PIECES_MAX) {
                return Err(Error::TooLarge { limit: PIECES_MAX });
            }
            self.rows.push(PieceRow {
                name,
                map: chunk.map as u32,
                index: (chunk.index.byte_offset() / PIECE_BYTES) as u32 + number,
                pack: place.pack,
                offset: place.offset,
                bytes: place.bytes,
            });
        }
        Ok(())
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

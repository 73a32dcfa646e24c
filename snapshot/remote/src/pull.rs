//! Pulls: a snapshot of the store into a pool.
//!
//! A manifest is as foreign as a stream. Each piece is held against its name before it lands, and
//! the root of the content of what has landed against the one in the manifest before it is a
//! snapshot.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use nvvmm_snapshot::stream::ChunkRecord;
use nvvmm_snapshot::{
    ChunkIndex, FaultPoint, FrameSet, Landing, MoveProgress, Pool, ReceiveOptions, ReceiveReport,
    fault_point,
};

use crate::error::{Error, Result};
use crate::layout::manifest::{Manifest, PieceRow};
use crate::objects::{Traffic, UnderWay};
use crate::piece::{CHUNK_PIECES, PIECE_FRAMES, PieceReader, content_of, frames_of};
use crate::store::Store;

/// Bytes that are fetched ahead while the ones before land.
const BATCH_BYTES: u64 = 16 << 20;
/// Chunks of a batch.
const BATCH_CHUNKS: usize = 32;
/// Bytes of a request, unless one piece has more.
const REQUEST_BYTES: u64 = 4 << 20;
/// Bytes that are fetched although nobody needs them, to save a request.
const GAP_BYTES: u64 = 64 << 10;

/// Options of a pull.
pub type PullOptions<'a> = ReceiveOptions<'a>;

/// The result of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullReport {
    /// The new snapshot, and what of it was in the pool.
    pub received: ReceiveReport,
    /// Pieces that it is made of.
    pub pieces_count: u64,
    /// Those of them that were fetched.
    pub fetched_pieces_count: u64,
    /// Requests, and bytes sent and received.
    pub traffic: Traffic,
}

/// A piece, and its content if the pool has it.
pub(crate) struct Planned {
    pub(crate) row: PieceRow,
    pub(crate) here: Option<Vec<u8>>,
}

/// A request for neighbours in a pack.
struct Fetch {
    pack: u32,
    offset: u32,
    request: UnderWay<Option<Bytes>>,
}

/// Chunks whose pieces are on their way.
struct Batch {
    chunks: Vec<(usize, ChunkIndex, Vec<Planned>)>,
    fetches: Vec<Fetch>,
}

/// Pieces on their way into a pool.
pub(crate) struct Pulling<'s> {
    pub(crate) store: &'s Store,
    pub(crate) manifest: &'s Manifest,
    reader: PieceReader,
    pub(crate) fetched_pieces_count: u64,
}

impl Store {
    /// Makes a snapshot of a pool of one of the store; it is foreign there. What the pool is likely
    /// to have is compared with by name, and not fetched. `on_progress` is called for each chunk.
    /// An interrupted pull leaves what has arrived, and the next one goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`], [`Error::Missing`]: nothing is left.
    /// [`Error::Denied`], [`Error::Failed`]: what has arrived is kept. [`Error::Pool`]: as
    /// [`Pool::receive`] has it.
    pub fn pull(
        &self,
        pool: &Arc<Pool>,
        name: &str,
        options: &PullOptions<'_>,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<PullReport> {
        let object = self.keys.snapshot_object(name);
        let Some(manifest) = self.manifest_in(&object)? else {
            return Err(self.not_found(name));
        };
        let mut landing = Landing::begin(pool, &manifest.head.header, options)?;
        let mut pulling = Pulling::of(self, &manifest)?;
        let landed = pulling
            .land(&mut landing, on_progress)
            .and_then(|()| Ok(landing.complete()?));
        match landed {
            Ok(received) => Ok(PullReport {
                received,
                pieces_count: manifest.pieces.len() as u64,
                fetched_pieces_count: pulling.fetched_pieces_count,
                traffic: self.traffic(),
            }),
            Err(error) => {
                end(&mut landing, &error);
                Err(error)
            }
        }
    }
}

/// Ends a pull that failed.
pub(crate) fn end(landing: &mut Landing, error: &Error) {
    match error {
        Error::Pool(error) => landing.end(Some(error)),
        error if error.is_interruption() => landing.end(None),
        _ => landing.end(Some(&nvvmm_snapshot::Error::StreamDamaged {
            what: "the store is damaged".to_owned(),
        })),
    }
}

/// Bytes of packs, by the offset at which each request began.
pub(crate) type Fetched = HashMap<u32, Vec<(u32, Bytes)>>;

impl<'s> Pulling<'s> {
    pub(crate) fn of(store: &'s Store, manifest: &'s Manifest) -> Result<Pulling<'s>> {
        Ok(Pulling {
            store,
            manifest,
            reader: PieceReader::new()?,
            fetched_pieces_count: 0,
        })
    }

    fn land(
        &mut self,
        landing: &mut Landing,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let manifest = self.manifest;
        let header = &manifest.head.header;
        landing.state(manifest.state.clone());
        let same_chunk = |left: &PieceRow, right: &PieceRow| {
            left.map == right.map && left.index / CHUNK_PIECES == right.index / CHUNK_PIECES
        };
        let mut chunks = manifest.pieces.chunk_by(same_chunk).peekable();
        let mut next = self.plan(landing, &mut chunks)?;
        while !next.chunks.is_empty() {
            let batch = next;
            // Its requests run while this batch lands.
            next = self.plan(landing, &mut chunks)?;
            let fetched = self.wait_for(batch.fetches)?;
            for (map, index, pieces) in batch.chunks {
                let progress = MoveProgress {
                    bytes_done: header.bytes_before(map, index),
                    bytes_total: header.bytes_total(),
                };
                if on_progress(progress).is_break() {
                    return Err(nvvmm_snapshot::Error::Interrupted.into());
                }
                let record = self.record(map, index, pieces, &fetched)?;
                landing.chunk(&record)?;
                fault_point(FaultPoint::PullChunkLanded);
            }
        }
        Ok(())
    }

    /// Takes the next chunks, finds what the pool has of them, and begins to fetch the rest.
    fn plan<'r>(
        &mut self,
        landing: &mut Landing,
        chunks: &mut impl Iterator<Item = &'r [PieceRow]>,
    ) -> Result<Batch> {
        let mut batch = Batch {
            chunks: Vec::new(),
            fetches: Vec::new(),
        };
        let mut lacking: Vec<PieceRow> = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.chunks.len() < BATCH_CHUNKS {
            let Some(rows) = chunks.next() else { break };
            let (map, index) = (rows[0].map as usize, rows[0].index / CHUNK_PIECES);
            let index = ChunkIndex::new(index);
            let pieces = self.planned(landing, rows)?;
            for piece in pieces.iter().filter(|piece| piece.here.is_none()) {
                bytes += u64::from(piece.row.bytes);
                lacking.push(piece.row);
            }
            batch.chunks.push((map, index, pieces));
        }
        for (pack, range) in self.requests_for(lacking) {
            let name = Store::pack_path(self.manifest.packs[pack as usize]);
            batch.fetches.push(Fetch {
                pack,
                offset: range.start as u32,
                request: self.store.objects.begin_get(name, range),
            });
        }
        Ok(batch)
    }

    /// The pieces of a chunk, with what the pool has of them.
    pub(crate) fn planned(&self, landing: &mut Landing, rows: &[PieceRow]) -> Result<Vec<Planned>> {
        let (map, index) = (rows[0].map as usize, rows[0].index / CHUNK_PIECES);
        let here = landing.here(map, ChunkIndex::new(index))?;
        let planned = rows.iter().map(|row| Planned {
            row: *row,
            here: here.and_then(|(there, chunk)| self.if_equal(row, &there, chunk)),
        });
        Ok(planned.collect())
    }

    /// The requests that fetch these pieces, by the pack and the bytes of it.
    pub(crate) fn requests_for(&mut self, lacking: Vec<PieceRow>) -> Vec<(u32, Range<u64>)> {
        let mut lacking = lacking;
        lacking.sort_by_key(|row| (row.pack, row.offset));
        lacking.dedup_by_key(|row| (row.pack, row.offset));
        self.fetched_pieces_count += lacking.len() as u64;
        let mut requests: Vec<(u32, Range<u64>)> = Vec::new();
        for row in lacking {
            let (from, to) = (u64::from(row.offset), u64::from(row.offset + row.bytes));
            match requests.last_mut() {
                Some((pack, range))
                    if *pack == row.pack
                        && from <= range.end + GAP_BYTES
                        && to - range.start <= REQUEST_BYTES =>
                {
                    range.end = range.end.max(to);
                }
                _ => requests.push((row.pack, from..to)),
            }
        }
        requests
    }

    /// The content of a piece, if the pool has it there.
    fn if_equal(&self, row: &PieceRow, there: &FrameSet, chunk: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let is_there = content_of(row.index % CHUNK_PIECES, there, chunk, &mut content);
        (is_there && self.store.keys.piece_name(&content) == row.name).then_some(content)
    }

    /// The bytes that were fetched, by the pack and the offset at which each request begins.
    fn wait_for(&self, fetches: Vec<Fetch>) -> Result<Fetched> {
        let mut fetched: Fetched = HashMap::new();
        for fetch in fetches {
            let bytes = self.store.objects.wait(fetch.request)?;
            let pack = self.manifest.packs[fetch.pack as usize];
            let bytes = bytes.ok_or_else(|| Error::Missing {
                object: format!("pack {pack}"),
            })?;
            fetched
                .entry(fetch.pack)
                .or_default()
                .push((fetch.offset, bytes));
        }
        Ok(fetched)
    }

    /// The record of a chunk: the frames of its pieces, in order.
    pub(crate) fn record(
        &mut self,
        map: usize,
        index: ChunkIndex,
        pieces: Vec<Planned>,
        fetched: &Fetched,
    ) -> Result<ChunkRecord> {
        let mut record = ChunkRecord {
            map,
            index,
            ..ChunkRecord::default()
        };
        for Planned { row, here } in pieces {
            let content = match here {
                Some(content) => content,
                None => {
                    let stored = self.stored(&row, fetched)?;
                    self.reader.content(&self.store.keys, &row.name, stored)?
                }
            };
            let first = row.index % CHUNK_PIECES * PIECE_FRAMES;
            for (place, bytes) in frames_of(&content)? {
                record.written.insert(first + place);
                record.content.extend_from_slice(bytes);
            }
        }
        Ok(record)
    }

    /// The stored bytes of a piece among what was fetched.
    fn stored<'f>(&self, row: &PieceRow, fetched: &'f Fetched) -> Result<&'f [u8]> {
        let runs = fetched
            .get(&row.pack)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let run = runs.partition_point(|(offset, _)| *offset <= row.offset);
        // Requests of a pack are in the order of their offsets.
        let found = run.checked_sub(1).and_then(|run| {
            let (offset, bytes) = &runs[run];
            let from = (row.offset - offset) as usize;
            bytes.get(from..from + row.bytes as usize)
        });
        found.ok_or_else(|| {
            let pack = self.manifest.packs[row.pack as usize];
            Error::damaged(format_args!("pack {pack}"), "it is shorter than it was")
        })
    }
}

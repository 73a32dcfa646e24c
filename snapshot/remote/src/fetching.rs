//! Chunks of an arrival: which are fetched, which have landed, and which fail.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nvvmm_snapshot::{ChunkIndex, FaultPoint, Landing, fault_point};

use crate::error::{Error, Result};
use crate::layout::manifest::{Manifest, PieceRow};
use crate::piece::CHUNK_PIECES;
use crate::pull::{Fetched, Planned, Pulling};
use crate::store::Store;

/// Chunks that are fetched at once although nobody waits for them.
const AHEAD: usize = 8;
/// Chunks that are fetched at once in all.
const AT_ONCE: usize = 24;
/// Time that a request has.
const REQUEST_MAX: Duration = Duration::from_secs(15);
/// Time between two attempts for a chunk: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Time for which a chunk fails before the VM is told that the store is away.
const AWAY_AFTER: Duration = Duration::from_secs(2);
/// Chunks, or time, after which what nobody waits for is committed.
const KEEP_CHUNKS: usize = 16;
const KEEP_AFTER: Duration = Duration::from_millis(100);

/// The memory that is fetched although the guest has not touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefetch {
    /// All of it: what was touched the last time at first.
    All,
    /// Memory that was touched the last time.
    Recorded,
    /// None, before somebody wants all of it.
    None,
}

/// Something that happened to an arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArrivalNews {
    /// These chunks of memory, from the first to before the second, are in the incomplete file.
    Landed {
        /// The chunks.
        chunks: Vec<(u32, u32)>,
        /// Chunks that are not there yet.
        lacking: u32,
    },
    /// Something cannot be fetched for now. It is tried again.
    Away {
        /// The cause.
        why: String,
    },
    /// All that could not be fetched has landed.
    Back,
    /// The snapshot is complete.
    Whole,
}

/// Something that the thread which lands chunks hears.
pub(crate) enum Event {
    Touched(Vec<ChunkIndex>),
    AllWanted,
    Lost,
    Fetched {
        chunk: ChunkIndex,
        pack: u32,
        offset: u32,
        got: Result<Option<Bytes>>,
    },
}

/// Says what a VM needs. Any thread may.
#[derive(Clone)]
pub struct Wants(pub(crate) Sender<Event>);

impl Wants {
    /// The guest has touched these chunks for the first time, in this order.
    pub fn touched(&self, chunks: Vec<ChunkIndex>) {
        // An arrival that has ended needs to hear nothing.
        let _ = self.0.send(Event::Touched(chunks));
    }

    /// Somebody waits for all of the memory.
    pub fn all(&self) {
        let _ = self.0.send(Event::AllWanted);
    }

    /// The VM is gone.
    pub fn lost(&self) {
        let _ = self.0.send(Event::Lost);
    }
}

/// The chunk that a piece is of.
pub(crate) fn chunk_of(row: &PieceRow) -> ChunkIndex {
    ChunkIndex::new(row.index / CHUNK_PIECES)
}

/// A chunk that is being fetched.
struct UnderWay {
    pieces: Vec<Planned>,
    /// Requests without an answer.
    waiting: usize,
    fetched: Fetched,
    failed: Option<Error>,
}

/// A chunk that could not be fetched.
struct Trouble {
    since: Instant,
    attempts: u32,
    again: Instant,
    why: String,
    is_damage: bool,
}

/// Chunks on their way, and what is known of each.
pub(crate) struct Fetching<'a> {
    pub(crate) pulling: Pulling<'a>,
    landing: &'a mut Landing,
    pub(crate) events: (Sender<Event>, Receiver<Event>),
    news: &'a mut dyn FnMut(ArrivalNews) -> ControlFlow<()>,
    /// The rows of each chunk that has not landed.
    lacking: HashMap<ChunkIndex, Range<usize>>,
    /// Chunks that the guest waits for, the first one first.
    wanted: VecDeque<ChunkIndex>,
    /// All chunks that the guest has touched, in order.
    pub(crate) touched: Vec<ChunkIndex>,
    was_touched: HashSet<ChunkIndex>,
    /// Chunks that are to be fetched without that.
    ahead: VecDeque<ChunkIndex>,
    under_way: HashMap<ChunkIndex, UnderWay>,
    trouble: HashMap<ChunkIndex, Trouble>,
    is_away: bool,
    /// Chunks that have landed and are in no committed file.
    unkept: Vec<ChunkIndex>,
    kept: Instant,
    /// One of these is waited for.
    is_urgent: bool,
    /// The reason why they cannot be committed for now.
    not_kept: Option<String>,
}

impl<'a> Fetching<'a> {
    pub(crate) fn of(
        store: &'a Store,
        manifest: &'a Manifest,
        landing: &'a mut Landing,
        events: (Sender<Event>, Receiver<Event>),
        news: &'a mut dyn FnMut(ArrivalNews) -> ControlFlow<()>,
    ) -> Result<Fetching<'a>> {
        let mut lacking: HashMap<ChunkIndex, Range<usize>> = HashMap::new();
        for (at, row) in manifest.pieces.iter().enumerate() {
            let rows = lacking.entry(chunk_of(row)).or_insert(at..at);
            rows.end = at + 1;
        }
        let fetching = Fetching {
            pulling: Pulling::of(store, manifest)?,
            landing,
            events,
            news,
            lacking,
            wanted: VecDeque::new(),
            touched: Vec::new(),
            was_touched: HashSet::new(),
            ahead: VecDeque::new(),
            under_way: HashMap::new(),
            trouble: HashMap::new(),
            is_away: false,
            unkept: Vec::new(),
            kept: Instant::now(),
            is_urgent: false,
            not_kept: None,
        };
        Ok(fetching)
    }

    /// Decides what is fetched without being touched.
    pub(crate) fn plan(&mut self, prefetch: Prefetch, recorded: &[ChunkIndex]) {
        self.ahead = match prefetch {
            Prefetch::None => VecDeque::new(),
            Prefetch::Recorded | Prefetch::All => recorded.iter().copied().collect(),
        };
        if prefetch == Prefetch::All {
            self.want_the_rest();
        }
    }

    fn want_the_rest(&mut self) {
        let mut rest: Vec<ChunkIndex> = self.lacking.keys().copied().collect();
        rest.sort_unstable();
        self.ahead.extend(rest);
    }

    /// Fetches until no chunk is lacking.
    ///
    /// # Errors
    /// The VM is gone, or another attempt cannot help.
    pub(crate) fn until_all_is_there(&mut self) -> Result<()> {
        self.tell_holes()?;
        while !self.lacking.is_empty() || !self.unkept.is_empty() {
            self.begin_some()?;
            self.keep_if_due()?;
            self.tell_trouble()?;
            let event = match self.events.1.recv_timeout(self.patience()) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::Lost),
            };
            let mut next = event;
            while let Some(event) = next {
                self.hear(event)?;
                next = self.events.1.try_recv().ok();
            }
        }
        Ok(())
    }

    /// All that is no chunk of the manifest is a hole, and there.
    fn tell_holes(&mut self) -> Result<()> {
        let total = self.pulling.manifest.head.header.memory_bytes;
        let total = total.div_ceil(nvvmm_snapshot::CHUNK_SIZE_BYTES) as u32;
        let holes = (0..total).filter(|chunk| !self.lacking.contains_key(&ChunkIndex::new(*chunk)));
        let holes = ranges(holes);
        self.tell_landed(&holes)
    }

    fn tell_landed(&mut self, ranges: &[(u32, u32)]) -> Result<()> {
        let lacking = self.lacking.len() as u32;
        // An empty list tells how much is lacking.
        let parts = ranges.chunks(512).map(<[_]>::to_vec);
        for chunks in parts.chain(ranges.is_empty().then(Vec::new)) {
            self.tell(ArrivalNews::Landed { chunks, lacking })?;
        }
        Ok(())
    }

    fn tell(&mut self, news: ArrivalNews) -> Result<()> {
        match (self.news)(news) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(nvvmm_snapshot::Error::Interrupted.into()),
        }
    }

    /// Time after which something is to be done, though nothing has happened.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let retries = self.trouble.values().map(|trouble| trouble.again);
        let keep = (!self.unkept.is_empty()).then(|| self.kept + KEEP_AFTER);
        let next = retries.chain(keep).min();
        let patience = next.map(|next| next.saturating_duration_since(now));
        patience.unwrap_or(RETRY_MAX).min(AWAY_AFTER)
    }

    /// Begins to fetch what is wanted, and then what comes next.
    fn begin_some(&mut self) -> Result<()> {
        while self.under_way.len() < AT_ONCE
            && let Some(chunk) = self.wanted.pop_front()
        {
            self.begin(chunk)?;
        }
        let now = Instant::now();
        let due = { self.trouble.iter() }.filter(|(_, trouble)| trouble.again <= now);
        let due: Vec<ChunkIndex> = due.map(|(chunk, _)| *chunk).collect();
        for chunk in due {
            self.begin(chunk)?;
        }
        // What fails is not asked for more.
        let ahead = AHEAD.saturating_sub(self.trouble.len());
        while self.under_way.len() < ahead
            && let Some(chunk) = self.ahead.pop_front()
        {
            self.begin(chunk)?;
        }
        Ok(())
    }

    /// Begins to fetch a chunk, unless it has landed or is under way. One that the pool has lands.
    fn begin(&mut self, chunk: ChunkIndex) -> Result<()> {
        if self.under_way.contains_key(&chunk) {
            return Ok(());
        }
        let Some(rows) = self.lacking.get(&chunk) else {
            return Ok(());
        };
        let rows = &self.pulling.manifest.pieces[rows.clone()];
        let pieces = self.pulling.planned(self.landing, rows)?;
        let lacking = pieces.iter().filter(|piece| piece.here.is_none());
        let lacking: Vec<PieceRow> = lacking.map(|piece| piece.row).collect();
        let requests = self.pulling.requests_for(lacking);
        let under_way = UnderWay {
            pieces,
            waiting: requests.len(),
            fetched: Fetched::new(),
            failed: None,
        };
        if requests.is_empty() {
            return self.land(chunk, under_way);
        }
        self.under_way.insert(chunk, under_way);
        for (pack, range) in requests {
            let name = Store::pack_path(self.pulling.manifest.packs[pack as usize]);
            let (events, offset) = (self.events.0.clone(), range.start as u32);
            let objects = &self.pulling.store.objects;
            objects.get_then(name, range, REQUEST_MAX, move |got| {
                // Nobody listens any more when the VM is gone.
                let _ = events.send(Event::Fetched {
                    chunk,
                    pack,
                    offset,
                    got,
                });
            });
        }
        Ok(())
    }

    fn hear(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Lost => return Err(nvvmm_snapshot::Error::Interrupted.into()),
            Event::AllWanted => self.want_the_rest(),
            Event::Touched(chunks) => {
                for chunk in chunks {
                    if self.was_touched.insert(chunk) {
                        self.touched.push(chunk);
                        self.wanted.push_back(chunk);
                    }
                    self.is_urgent |= self.unkept.contains(&chunk);
                }
            }
            Event::Fetched {
                chunk,
                pack,
                offset,
                got,
            } => {
                let Some(under_way) = self.under_way.get_mut(&chunk) else {
                    return Ok(());
                };
                under_way.waiting -= 1;
                match got {
                    Ok(Some(bytes)) => {
                        under_way
                            .fetched
                            .entry(pack)
                            .or_default()
                            .push((offset, bytes));
                    }
                    Ok(None) => {
                        let pack = self.pulling.manifest.packs[pack as usize];
                        under_way.failed = Some(Error::Missing {
                            object: format!("pack {pack}"),
                        });
                    }
                    Err(error) => under_way.failed = Some(error),
                }
                if under_way.waiting == 0
                    && let Some(under_way) = self.under_way.remove(&chunk)
                {
                    return self.land(chunk, under_way);
                }
            }
        }
        Ok(())
    }

    /// Checks and stores a chunk. What is wrong with it is tried again; what is wrong with the
    /// manifest, or with the pool, ends the arrival.
    fn land(&mut self, chunk: ChunkIndex, under_way: UnderWay) -> Result<()> {
        let UnderWay {
            pieces,
            mut fetched,
            failed,
            ..
        } = under_way;
        for runs in fetched.values_mut() {
            runs.sort_by_key(|(offset, _)| *offset);
        }
        let record = match failed {
            Some(error) => Err(error),
            None => self.pulling.record(0, chunk, pieces, &fetched),
        };
        let landed = record.and_then(|record| Ok(self.landing.chunk(&record)?));
        match landed {
            Ok(()) => {}
            Err(error) if may_succeed_later(&error) => {
                self.note_trouble(chunk, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        fault_point(FaultPoint::PullChunkLanded);
        self.trouble.remove(&chunk);
        self.lacking.remove(&chunk);
        self.is_urgent |= self.was_touched.contains(&chunk);
        self.unkept.push(chunk);
        Ok(())
    }

    fn note_trouble(&mut self, chunk: ChunkIndex, error: &Error) {
        let now = Instant::now();
        let trouble = self.trouble.entry(chunk).or_insert(Trouble {
            since: now,
            attempts: 0,
            again: now,
            why: String::new(),
            is_damage: false,
        });
        let wait = RETRY_MIN * 2_u32.saturating_pow(trouble.attempts.min(8));
        trouble.attempts += 1;
        trouble.again = now + wait.min(RETRY_MAX);
        trouble.why = error.to_string();
        trouble.is_damage = matches!(error, Error::Damaged { .. } | Error::Missing { .. });
    }

    /// Tells when something begins to fail for long, and when nothing does any more.
    fn tell_trouble(&mut self) -> Result<()> {
        let lasting = |trouble: &&Trouble| {
            trouble.since.elapsed() >= AWAY_AFTER || (trouble.is_damage && trouble.attempts > 2)
        };
        let lasting = self.trouble.values().find(lasting);
        let why = lasting.map(|trouble| trouble.why.clone());
        let why = why.or_else(|| self.not_kept.clone());
        match (why, self.is_away) {
            (Some(why), false) => {
                self.is_away = true;
                self.tell(ArrivalNews::Away { why })
            }
            (None, true) => {
                self.is_away = false;
                self.tell(ArrivalNews::Back)
            }
            _ => Ok(()),
        }
    }

    /// Commits what has landed, and tells the VM: at once if it waits.
    fn keep_if_due(&mut self) -> Result<()> {
        let is_soon = self.is_urgent || self.lacking.is_empty() || self.unkept.len() >= KEEP_CHUNKS;
        let is_due = (is_soon && self.not_kept.is_none()) || self.kept.elapsed() >= KEEP_AFTER;
        if self.unkept.is_empty() || !is_due {
            return Ok(());
        }
        match self.landing.keep().map_err(Error::from) {
            Ok(()) => self.not_kept = None,
            Err(error) if may_succeed_later(&error) => {
                (self.kept, self.not_kept) = (Instant::now(), Some(error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        fault_point(FaultPoint::ArrivingKept);
        (self.kept, self.is_urgent) = (Instant::now(), false);
        let mut chunks = std::mem::take(&mut self.unkept);
        chunks.sort_unstable();
        self.tell_landed(&ranges(chunks.iter().map(|chunk| chunk.get())))
    }
}

/// True for what another attempt may have: the store is away, damaged, or the pool is full.
fn may_succeed_later(error: &Error) -> bool {
    use nvvmm_snapshot::Error::{MediumFull, NoRoom, NoSpaceOnMedium, PoolFull, PoolLocked};
    matches!(
        error,
        Error::Failed { .. }
            | Error::Denied { .. }
            | Error::Missing { .. }
            | Error::Damaged { .. }
            | Error::Pool(
                PoolFull { .. }
                    | NoSpaceOnMedium { .. }
                    | MediumFull { .. }
                    | NoRoom { .. }
                    | PoolLocked { .. },
            )
    )
}

/// Rising numbers as ranges, each from the first to before the second.
fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end == number => *end += 1,
            _ => ranges.push((number, number + 1)),
        }
    }
    ranges
}

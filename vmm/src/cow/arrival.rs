//! Guest RAM that arrives from an object store while the guest runs.
//!
//! A process beside this one fetches it into the incomplete file of a snapshot, and says which
//! chunks are there. A first touch of another chunk stays held until it is.

use std::{
    fmt,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameMap, Resource, SnapshotId, ask_for};

use super::{CowError, Lack, counters::lock};

/// A descriptor that wakes a thread.
#[derive(Debug)]
pub struct Bell {
    rings: AtomicBool,
    ring: PipeWriter,
    heard: PipeReader,
}

impl Bell {
    fn new() -> io::Result<Self> {
        ask_for(Resource::Descriptor)?;
        let (heard, ring) = io::pipe()?;
        Ok(Self {
            rings: AtomicBool::new(false),
            ring,
            heard,
        })
    }

    fn ring(&self) {
        if !self.rings.swap(true, Ordering::SeqCst)
            && let Err(error) = (&self.ring).write(&[1])
        {
            // The thread looks again by itself, a little later.
            tracing::warn!(%error, "a thread cannot be woken");
        }
    }

    /// Readable while the bell rings.
    pub fn rings(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Ends the ringing. Called when the descriptor is readable, before looking.
    pub fn hear(&self) {
        let _ = (&self.heard).read(&mut [0; 16]);
        self.rings.store(false, Ordering::SeqCst);
    }
}

/// Memory of a snapshot that arrives.
pub struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the fault thread: something has arrived, or the store is away.
    arrived: Bell,
    /// Wakes whoever talks to the process that fetches.
    wanted: Bell,
}

struct State {
    /// The map of the incomplete file that the VM pins.
    frames: FrameMap,
    here: Bits,
    /// Chunks that were touched, in order.
    touches: Vec<ChunkIndex>,
    touched: Bits,
    is_all_wanted: bool,
    /// Chunks that have not arrived. Unknown before anybody fetches.
    lacking: Option<u32>,
    /// Frames of the whole snapshot.
    frames_mapped: u64,
    is_linked: bool,
    away: Option<String>,
    whole: Option<SnapshotId>,
    has_ended: bool,
}

/// A set of chunks.
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u32) -> Self {
        Self(vec![0; (count as usize).div_ceil(64)])
    }

    fn contains(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Returns false if it was there already, or is no chunk.
    fn insert(&mut self, number: u32) -> bool {
        let Some(word) = self.0.get_mut(number as usize / 64) else {
            return false;
        };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Memory that has not arrived, as the status of a VM has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Chunks.
    pub chunks: u32,
    /// The reason why none comes for now.
    pub away: Option<String>,
}

/// Reason while no process fetches.
const NOBODY_FETCHES: &str = "the process that fetches it has ended";

impl Arrival {
    /// Memory of which nothing is known to be there yet.
    ///
    /// # Errors
    /// The process has no more descriptors.
    pub fn new(frames: FrameMap) -> io::Result<Self> {
        let chunks = frames.chunks_total();
        Ok(Self {
            state: Mutex::new(State {
                frames,
                here: Bits::new(chunks),
                touches: Vec::new(),
                touched: Bits::new(chunks),
                is_all_wanted: false,
                lacking: None,
                frames_mapped: 0,
                is_linked: false,
                away: None,
                whole: None,
                has_ended: false,
            }),
            changed: Condvar::new(),
            arrived: Bell::new()?,
            wanted: Bell::new()?,
        })
    }

    // For the engine and the fault thread.

    /// The blocks of a chunk that the guest touches.
    ///
    /// # Errors
    /// [`CowError::Arriving`], [`Lack::Store`]: it is not there yet, and is fetched.
    pub(super) fn chunk(&self, index: ChunkIndex) -> Result<ChunkMap, CowError> {
        let mut state = lock(&self.state);
        if state.touched.insert(index.get()) {
            state.touches.push(index);
            self.wanted.ring();
        }
        if state.here.contains(index.get()) {
            return Ok(state.frames.chunk(index)?);
        }
        Err(match state.away {
            Some(_) => CowError::NoSpace(Lack::Store),
            None => CowError::Arriving,
        })
    }

    /// True if a chunk is there.
    pub(super) fn is_here(&self, index: ChunkIndex) -> bool {
        lock(&self.state).here.contains(index.get())
    }

    /// Frames of the whole snapshot.
    pub(super) fn frames_mapped(&self) -> u64 {
        lock(&self.state).frames_mapped
    }

    /// Rings when a held access may be answered.
    pub(super) fn arrived(&self) -> &Bell {
        &self.arrived
    }

    // For the VM.

    /// Waits until somebody fetches. False if nobody does in time.
    pub fn wait_linked(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = lock(&self.state);
        while state.lacking.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Has all of it fetched, and waits for a while. True once all is there.
    pub fn wait_whole(&self, limit: Duration) -> bool {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.is_all_wanted, true) {
            self.wanted.ring();
        }
        if state.whole.is_none() {
            let waited = self.changed.wait_timeout(state, limit);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.whole.is_some()
    }

    /// The whole snapshot, once it is in the pool.
    pub fn whole(&self) -> Option<SnapshotId> {
        lock(&self.state).whole
    }

    /// Memory that has not arrived; none once all is there.
    pub fn lacking(&self) -> Option<Lacking> {
        let state = lock(&self.state);
        let lacking = Lacking {
            chunks: state.lacking.unwrap_or_default(),
            away: state.away.clone(),
        };
        state.whole.is_none().then_some(lacking)
    }

    /// Nobody touches the memory any more.
    pub fn end(&self) {
        lock(&self.state).has_ended = true;
        self.wanted.ring();
        self.changed.notify_all();
    }

    // For whoever talks to the process that fetches.

    /// Rings when there is something to tell that process.
    pub fn wanted(&self) -> &Bell {
        &self.wanted
    }

    /// Takes a process that fetches. False if there is one, or nothing is to be fetched.
    pub fn link(&self, frames_mapped: u64) -> bool {
        let mut state = lock(&self.state);
        if state.is_linked || state.whole.is_some() || state.has_ended {
            return false;
        }
        (state.is_linked, state.away) = (true, None);
        state.frames_mapped = frames_mapped;
        true
    }

    /// The process that fetches is gone.
    pub fn unlink(&self) {
        let mut state = lock(&self.state);
        state.is_linked = false;
        if state.whole.is_none() {
            let before = state.away.take().map(|why| why + "; ").unwrap_or_default();
            state.away = Some(before + NOBODY_FETCHES);
        }
        self.arrived.ring();
        self.changed.notify_all();
    }

    /// Touches from number `from` on, whether all is wanted, and whether the VM has ended.
    pub fn wants(&self, from: usize) -> (Vec<ChunkIndex>, bool, bool) {
        let state = lock(&self.state);
        let touches = state.touches.get(from..).unwrap_or_default().to_vec();
        (touches, state.is_all_wanted, state.has_ended)
    }

    /// These chunks, from the first to before the second, are in the file with this map, which the
    /// VM pins.
    ///
    /// # Errors
    /// A chunk that was there is another one in it. Nothing has changed.
    pub fn landed(
        &self,
        frames: FrameMap,
        ranges: &[(u32, u32)],
        lacking: u32,
        is_first: bool,
    ) -> Result<(), CowError> {
        let mut state = lock(&self.state);
        let total = frames.chunks_total();
        if is_first {
            for index in (0..total).filter(|index| state.here.contains(*index)) {
                if frames.chunk(index)? != state.frames.chunk(index)? {
                    return Err(CowError::Pool(nvvmm_snapshot::Error::InvalidSnapshot {
                        what: format!("chunk {index} of it is another one than before"),
                    }));
                }
            }
        }
        state.frames = frames;
        for (first, end) in ranges {
            for index in *first..(*end).min(total) {
                state.here.insert(index);
            }
        }
        state.lacking = Some(lacking);
        self.arrived.ring();
        self.changed.notify_all();
        Ok(())
    }

    /// All is there, in the snapshot with this map, which the VM pins.
    ///
    /// # Errors
    /// A node of the map cannot be read.
    pub fn complete(&self, id: SnapshotId, frames: FrameMap) -> Result<(), CowError> {
        // A later snapshot may end the pin: all nodes have to be known before.
        { frames.iter_present() }.try_for_each(|chunk| chunk.map(drop))?;
        let total = frames.chunks_total();
        self.landed(frames, &[(0, total)], 0, false)?;
        let mut state = lock(&self.state);
        (state.whole, state.away) = (Some(id), None);
        self.changed.notify_all();
        Ok(())
    }

    /// The store is away for this reason, or is back.
    pub fn set_away(&self, why: Option<String>) {
        lock(&self.state).away = why;
        self.arrived.ring();
        self.changed.notify_all();
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Arrival")
            .field("lacking", &state.lacking)
            .field("away", &state.away)
            .finish_non_exhaustive()
    }
}

//! A region for tests that forgets what was not flushed, and that can kill its user at any store.
//!
//! The unit of loss is a cache line of 64 bytes: stores to one line become durable in order, those to different lines
//! in any order, and none has to unless it was flushed and fenced.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Region;
use crate::error::{Error, Result};

const LINE: usize = 64;
const BLOCK: u64 = 4096;

/// Bytes, kept by block; blocks that were never written are zero. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct SparseBytes(BTreeMap<u64, Arc<[u8; BLOCK as usize]>>);

impl SparseBytes {
    fn line(&self, line: u64) -> [u8; LINE] {
        let mut bytes = [0; LINE];
        let start = (line * LINE as u64 % BLOCK) as usize;
        if let Some(block) = self.0.get(&(line * LINE as u64 / BLOCK)) {
            bytes.copy_from_slice(&block[start..start + LINE]);
        }
        bytes
    }

    fn set_line(&mut self, line: u64, bytes: &[u8; LINE]) {
        let start = (line * LINE as u64 % BLOCK) as usize;
        let block = self
            .0
            .entry(line * LINE as u64 / BLOCK)
            .or_insert_with(|| Arc::new([0; BLOCK as usize]));
        if block[start..start + LINE] != *bytes {
            Arc::make_mut(block)[start..start + LINE].copy_from_slice(bytes);
        }
    }
}

/// A moment at which the power may fail.
#[derive(Clone)]
pub(crate) struct CrashPoint {
    durable: SparseBytes,
    /// For each line that has been stored to since: what it held after each store.
    pending: BTreeMap<u64, Vec<[u8; LINE]>>,
}

/// Which of the stores that were not fenced survive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Survivors {
    None,
    All,
    /// For each line, stores up to a random one.
    Random(u64),
}

impl CrashPoint {
    /// What is found after the power came back.
    pub(crate) fn image(&self, survivors: Survivors) -> SparseBytes {
        let mut image = self.durable.clone();
        let mut random = match survivors {
            Survivors::Random(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            _ => 1,
        };
        for (line, stores) in &self.pending {
            let kept = match survivors {
                Survivors::None => 0,
                Survivors::All => stores.len(),
                Survivors::Random(_) => {
                    // xorshift64
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random % (stores.len() as u64 + 1)) as usize
                }
            };
            if let Some(last) = kept.checked_sub(1) {
                image.set_line(*line, &stores[last]);
            }
        }
        image
    }
}

struct SimState {
    len: u64,
    now: SparseBytes,
    durable: SparseBytes,
    pending: BTreeMap<u64, Vec<[u8; LINE]>>,
    /// How many of a line's pending stores the next fence makes durable.
    flushed: BTreeMap<u64, usize>,
    recorded: Option<Vec<CrashPoint>>,
}

/// One user's handle of a simulated region.
pub(crate) struct SimRegion {
    state: Arc<Mutex<SimState>>,
    fuse: Arc<AtomicI64>,
}

/// Controls a region while a pool uses it.
#[derive(Clone)]
pub(crate) struct SimControl {
    state: Arc<Mutex<SimState>>,
    fuse: Arc<AtomicI64>,
}

const UNARMED: i64 = i64::MAX;

/// What a thread panics with that is killed at a store.
pub(crate) struct Killed;

/// A region with these bytes, all durable.
pub(crate) fn region_with(len: u64, bytes: SparseBytes) -> (SimRegion, SimControl) {
    let (durable, pending, flushed) = (bytes.clone(), BTreeMap::new(), BTreeMap::new());
    let state = SimState {
        len,
        now: bytes,
        durable,
        pending,
        flushed,
        recorded: None,
    };
    let region = SimRegion {
        state: Arc::new(Mutex::new(state)),
        fuse: Arc::new(AtomicI64::new(UNARMED)),
    };
    let control = SimControl {
        state: Arc::clone(&region.state),
        fuse: Arc::clone(&region.fuse),
    };
    (region, control)
}

impl SimControl {
    /// A handle for another user of the same bytes.
    pub(crate) fn another(&self) -> SimRegion {
        SimRegion {
            state: Arc::clone(&self.state),
            fuse: Arc::new(AtomicI64::new(UNARMED)),
        }
    }

    /// Kills the first handle's user at its `stores`-th store from now on: that one and all later ones are lost.
    pub(crate) fn kill_at(&self, stores: i64) {
        self.fuse.store(stores, Ordering::SeqCst);
    }

    /// Does not kill the user any more.
    pub(crate) fn spare(&self) {
        self.fuse.store(UNARMED, Ordering::SeqCst);
    }

    /// Whether the user was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.fuse.load(Ordering::SeqCst) <= 0
    }

    /// Remembers the state before every flush and fence from now on.
    pub(crate) fn record(&self) {
        lock(&self.state).recorded = Some(Vec::new());
    }

    /// The remembered states, and that of now.
    pub(crate) fn recorded(&self) -> Vec<CrashPoint> {
        let mut state = lock(&self.state);
        let mut points = state.recorded.take().unwrap_or_default();
        points.push(state.crash_point());
        points
    }
}

fn lock(state: &Mutex<SimState>) -> MutexGuard<'_, SimState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimState {
    fn crash_point(&self) -> CrashPoint {
        CrashPoint {
            durable: self.durable.clone(),
            pending: self.pending.clone(),
        }
    }

    /// A file's length is durable at once here: its last bytes are nobody's before a superblock says so.
    fn resize(&mut self, keep_bytes: u64, len_bytes: u64) {
        let kept_lines = keep_bytes / LINE as u64;
        for bytes in [&mut self.now, &mut self.durable] {
            bytes.0.split_off(&(keep_bytes / BLOCK));
        }
        self.pending.split_off(&kept_lines);
        self.flushed.split_off(&kept_lines);
        self.len = len_bytes;
    }

    fn note_point(&mut self) {
        let point = self.crash_point();
        if let Some(points) = &mut self.recorded {
            points.push(point);
        }
    }

    fn store(&mut self, offset: u64, bytes: impl Iterator<Item = u8>) {
        let mut bytes = bytes.peekable();
        let mut at = offset;
        while bytes.peek().is_some() {
            let line = at / LINE as u64;
            let mut content = self.now.line(line);
            let start = (at % LINE as u64) as usize;
            for place in &mut content[start..] {
                let Some(byte) = bytes.next() else { break };
                *place = byte;
                at += 1;
            }
            if content != self.now.line(line) || self.pending.contains_key(&line) {
                self.now.set_line(line, &content);
                self.pending.entry(line).or_default().push(content);
            }
        }
    }
}

impl SimRegion {
    fn in_bounds(&self, offset: u64, len: u64) -> Result<()> {
        let size = lock(&self.state).len;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::damaged(format!(
                "byte {offset} (+{len}) is behind the end"
            )));
        }
        Ok(())
    }

    /// Whether a store still counts; kills the user when it is the one.
    fn alive(&self) -> bool {
        if self.fuse.load(Ordering::SeqCst) == UNARMED {
            return true;
        }
        match self.fuse.fetch_sub(1, Ordering::SeqCst) {
            1 => std::panic::panic_any(Killed),
            left => left > 1,
        }
    }
}

impl Region for SimRegion {
    fn len_bytes(&self) -> u64 {
        lock(&self.state).len
    }

    fn extend(&self, len_bytes: u64, _overcommit: bool) -> Result<()> {
        self.in_bounds(0, len_bytes)
    }

    fn resize_medium(&self, keep_bytes: u64, len_bytes: u64) -> Result<()> {
        if self.alive() {
            lock(&self.state).resize(keep_bytes, len_bytes);
        }
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.in_bounds(offset, into.len() as u64)?;
        let state = lock(&self.state);
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let start = (at % BLOCK) as usize;
            let count = (BLOCK as usize - start).min(into.len() - done);
            match state.now.0.get(&(at / BLOCK)) {
                Some(block) => into[done..done + count].copy_from_slice(&block[start..start + count]),
                None => into[done..done + count].fill(0),
            }
            done += count;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.in_bounds(offset, from.len() as u64)?;
        if self.alive() {
            lock(&self.state).store(offset, from.iter().copied());
        }
        Ok(())
    }

    fn flush(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)?;
        let mut state = lock(&self.state);
        state.note_point();
        let lines = offset / LINE as u64..(offset + len).div_ceil(LINE as u64);
        let flushed: Vec<(u64, usize)> = state
            .pending
            .range(lines)
            .map(|(line, stores)| (*line, stores.len()))
            .collect();
        state.flushed.extend(flushed);
        Ok(())
    }

    fn fence(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.note_point();
        for (line, count) in std::mem::take(&mut state.flushed) {
            let Some(mut stores) = state.pending.remove(&line) else {
                continue;
            };
            let left = stores.split_off(count);
            if let Some(last) = stores.last() {
                state.durable.set_line(line, last);
            }
            if !left.is_empty() {
                state.pending.insert(line, left);
            }
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)?;
        if self.alive() {
            lock(&self.state).store(offset, (0..len).map(|_| 0));
        }
        Ok(())
    }

    fn punch_granule_bytes(&self) -> u64 {
        BLOCK
    }

    fn load_u32(&self, offset: u64) -> Result<u32> {
        let mut word = [0; 4];
        self.read(offset, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<()> {
        self.write(offset, &value.to_le_bytes())
    }

    fn next_written(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let state = lock(&self.state);
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let found = state
            .now
            .0
            .range(blocks)
            .find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
        Ok(found.map(|(block, _)| (block * BLOCK).max(range.start)..((block + 1) * BLOCK).min(range.end)))
    }

    fn provide(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)
    }
}

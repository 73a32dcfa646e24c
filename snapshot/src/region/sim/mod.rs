//! A region for tests that forgets what was not flushed, and that can kill its user at any moment.
//!
//! What is written is seen by all handles at once, as in a page cache or in processors' caches.
//! Durable it is after a flush and then a fence by the same handle; before that it may be, in units
//! that the crash chooses: stores to one unit become durable in order, those to different units in
//! any order.

mod image;
mod lie;
mod random;
mod unfenced;

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use image::Image;
pub(crate) use lie::{Lie, Undone};
pub(crate) use random::Random;
pub(crate) use unfenced::{CrashPoint, Fate, Survivors, Unit};

use self::unfenced::{Flushed, Unfenced};
use nvvmm_test_profile::sized;

use super::Region;
use crate::error::{Error, Result};

/// Bytes of a cache line.
const LINE: u64 = 64;
const BLOCK: u64 = 4096;

/// The medium that all handles share.
struct Bytes {
    now: Image,
    /// None where nobody will ask for a crash.
    history: Option<History>,
}

struct History {
    durable: Image,
    unfenced: Unfenced,
    stores: u64,
    last_durable: u64,
    points: Option<Vec<CrashPoint>>,
    lie: Option<Lie>,
}

/// One user's handle of a simulated region.
pub(crate) struct SimRegion {
    shared: Arc<Mutex<Bytes>>,
    fuse: Arc<AtomicI64>,
    flushed: Mutex<Flushed>,
}

/// Controls a region while a pool uses it.
#[derive(Clone)]
pub(crate) struct SimControl {
    shared: Arc<Mutex<Bytes>>,
}

/// Kills the user of one handle.
#[derive(Clone)]
pub(crate) struct Fuse(Arc<AtomicI64>);

const UNARMED: i64 = i64::MAX;

/// The payload of the panic of a thread that is killed at a store.
pub(crate) struct Killed;

/// A region with these bytes, all durable.
pub(crate) fn region_with(image: Image) -> SimControl {
    let history = History {
        durable: image.clone(),
        unfenced: Unfenced::default(),
        stores: 0,
        last_durable: 0,
        points: None,
        lie: None,
    };
    SimControl::of(image, Some(history))
}

/// A region with these bytes that keeps no record: it cannot crash.
pub(crate) fn safe_region_with(image: Image) -> SimControl {
    SimControl::of(image, None)
}

impl SimControl {
    fn of(now: Image, history: Option<History>) -> SimControl {
        SimControl {
            shared: Arc::new(Mutex::new(Bytes { now, history })),
        }
    }

    /// A handle for a user of the bytes, and what kills that user.
    pub(crate) fn handle(&self) -> (SimRegion, Fuse) {
        let fuse = Arc::new(AtomicI64::new(UNARMED));
        let region = SimRegion {
            shared: Arc::clone(&self.shared),
            fuse: Arc::clone(&fuse),
            flushed: Mutex::default(),
        };
        (region, Fuse(fuse))
    }

    /// From now on the medium does not do what it says.
    pub(crate) fn lie(&self, lie: Lie) {
        if let Some(history) = &mut lock(&self.shared).history {
            history.lie = Some(lie);
        }
    }

    /// Remembers the state before every flush and fence from now on. Gives back the number of the
    /// next store.
    pub(crate) fn record(&self) -> u64 {
        let mut bytes = lock(&self.shared);
        bytes.history.as_mut().map_or(0, |history| {
            history.points = Some(Vec::new());
            history.stores + 1
        })
    }

    /// The remembered states, and that of now. Nothing is remembered any more.
    pub(crate) fn recorded(&self) -> Vec<CrashPoint> {
        let mut bytes = lock(&self.shared);
        bytes.history.as_mut().map_or(Vec::new(), |history| {
            history.note_point();
            history.points.take().unwrap_or_default()
        })
    }
}

impl Fuse {
    /// Kills the user at its `count`-th store, flush or fence from now on: that one and all later
    /// ones are lost.
    pub(crate) fn kill_at(&self, count: i64) {
        self.0.store(count, Ordering::SeqCst);
    }

    /// The user is dead: what its destructors write is lost.
    pub(crate) fn kill(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Does not kill the user any more.
    pub(crate) fn spare(&self) {
        self.0.store(UNARMED, Ordering::SeqCst);
    }

    /// True when the user was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.0.load(Ordering::SeqCst) <= 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    fn note_point(&mut self) {
        let Some(points) = &mut self.points else {
            return;
        };
        let same = points.last().is_some_and(|last: &CrashPoint| {
            let (before, now) = (&last.durable, &self.durable);
            last.last_store == self.stores
                && before.hash() == now.hash()
                && before.len_bytes() == now.len_bytes()
        });
        if !same {
            points.push(CrashPoint {
                durable: self.durable.clone(),
                unfenced: self.unfenced.clone(),
                last_store: self.stores,
                last_durable: self.last_durable,
            });
        }
    }
}

impl Bytes {
    fn store(&mut self, offset: u64, len: u64, mut fill: impl FnMut(Range<usize>, &mut [u8])) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let (line, start) = (at / LINE, (at % LINE) as usize);
            let count = (LINE as usize - start).min((end - at) as usize);
            let from = (at - offset) as usize;
            let mut content = self.now.line(line);
            fill(from..from + count, &mut content[start..start + count]);
            let changed = self.now.set_line(line, &content);
            if let Some(history) = &mut self.history
                && (changed || history.unfenced.contains(line))
            {
                history.stores += 1;
                history.unfenced.push(line, history.stores, content);
            }
            at += count as u64;
        }
    }

    fn resize(&mut self, keep: u64, len: u64) {
        self.now.resize(keep, len);
        if let Some(history) = &mut self.history {
            history.note_point();
            history.unfenced.cut_off(keep / LINE);
            history.durable.resize(keep, len);
            history.note_point();
        }
    }

    fn is_ignored(&mut self, lie: impl FnOnce(&mut Lie) -> bool) -> bool {
        let told = self
            .history
            .as_mut()
            .and_then(|history| history.lie.as_mut());
        told.is_some_and(lie)
    }
}

impl SimRegion {
    fn in_bounds(&self, offset: u64, len: u64) -> Result<()> {
        let size = lock(&self.shared).now.len_bytes();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::damaged(format!(
                "byte {offset} (+{len}) is behind the end"
            )));
        }
        Ok(())
    }

    /// True when what the user does still counts; kills it when this is the moment.
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
        lock(&self.shared).now.len_bytes()
    }

    fn extend(&self, len_bytes: u64, _overcommit: bool) -> Result<()> {
        self.in_bounds(0, len_bytes)
    }

    /// A file's length is durable at once here: its last bytes are nobody's before a superblock
    /// says so.
    fn resize_medium(&self, keep_bytes: u64, len_bytes: u64) -> Result<()> {
        if self.alive() {
            lock(&self.shared).resize(keep_bytes, len_bytes);
        }
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.in_bounds(offset, into.len() as u64)?;
        lock(&self.shared).now.read(offset, into);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.in_bounds(offset, from.len() as u64)?;
        if self.alive() {
            let mut bytes = lock(&self.shared);
            if !bytes.is_ignored(|lie| lie.forgets_write(offset)) {
                let len = from.len() as u64;
                bytes.store(offset, len, |range, place| {
                    place.copy_from_slice(&from[range])
                });
            }
        }
        Ok(())
    }

    fn flush(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)?;
        if len == 0 || !self.alive() {
            return Ok(());
        }
        let mut bytes = lock(&self.shared);
        let ignored = bytes.is_ignored(|lie| lie.forgets(&Undone::Flush));
        if let Some(history) = &mut bytes.history {
            history.note_point();
            if !ignored {
                let lines = offset / LINE..=(offset + len - 1) / LINE;
                history.unfenced.newest(lines, &mut lock(&self.flushed));
            }
        }
        Ok(())
    }

    fn fence(&self) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        let flushed = std::mem::take(&mut *lock(&self.flushed));
        let mut bytes = lock(&self.shared);
        let ignored = bytes.is_ignored(|lie| lie.forgets(&Undone::Fence));
        if let Some(history) = &mut bytes.history {
            history.note_point();
            if !ignored {
                let last = history.unfenced.settle(flushed, &mut history.durable);
                history.last_durable = history.last_durable.max(last);
            }
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)?;
        if self.alive() {
            let mut bytes = lock(&self.shared);
            if !bytes.is_ignored(|lie| lie.forgets(&Undone::Punch)) {
                bytes.store(offset, len, |_, place| place.fill(0));
            }
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

    /// A process may be killed between any two words; the gate has it killed between lines.
    fn store_words(&self, offset: u64, values: &[u32]) -> Result<()> {
        let at_once = sized(LINE / 4, 1);
        let (mut at, mut rest) = (offset, values);
        while !rest.is_empty() {
            let count = (at_once - at / 4 % at_once).min(rest.len() as u64) as usize;
            let (words, left) = rest.split_at(count);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.write(at, &bytes)?;
            (at, rest) = (at + bytes.len() as u64, left);
        }
        Ok(())
    }

    /// Threads do not meet here.
    fn replace_u32(&self, offset: u64, before: u32, after: u32) -> Result<bool> {
        if self.load_u32(offset)? != before {
            return Ok(false);
        }
        self.store_u32(offset, after)?;
        Ok(true)
    }

    fn next_written(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let found = lock(&self.shared)
            .now
            .next_nonzero(range.start / BLOCK..range.end.div_ceil(BLOCK));
        Ok(found
            .map(|block| (block * BLOCK).max(range.start)..((block + 1) * BLOCK).min(range.end)))
    }

    fn provide(&self, offset: u64, len: u64) -> Result<()> {
        self.in_bounds(offset, len)
    }
}

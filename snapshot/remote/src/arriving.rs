//! Arrivals: a snapshot of the store comes into a pool while a VM runs on it.
//!
//! One thread plans, checks and lands; requests are under way beside it. The chunks that the guest
//! waits for are fetched before all others. What has landed is committed, as the incomplete file
//! that an interrupted pull leaves, before the VM hears of it: so whoever dies, nothing is behind
//! the guest's memory that is not in a committed file. docs/inside/lazy-restore.md has the whole.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nvvmm_snapshot::stream::StreamHeader;
use nvvmm_snapshot::{ChunkIndex, Landing, Medium, Pool, SnapshotKind};

use crate::error::{Error, Result};
use crate::fetching::{ArrivalNews, Event, Fetching, Prefetch, Wants, chunk_of};
use crate::layout::manifest::Manifest;
use crate::pull::{PullOptions, PullReport, end};
use crate::store::Store;

/// Time from the beginning for which touches are recorded, at least.
const RECORDED: Duration = Duration::from_secs(5);

/// The beginning of an arrival.
pub enum Begun<'s> {
    /// The snapshot is in the pool already, under this name.
    There(String),
    /// All of it has to be there before a VM can be built of it, for this reason.
    WholeOnly(&'static str),
    /// A VM can be built of the incomplete file.
    Arriving(Box<Arrival<'s>>),
}

/// A snapshot that arrives.
pub struct Arrival<'s> {
    store: &'s Store,
    manifest: Manifest,
    landing: Landing,
    events: (Sender<Event>, Receiver<Event>),
    prefetch: Prefetch,
    /// The order of an earlier run.
    recorded: Option<Vec<ChunkIndex>>,
    /// The touches of this run are recorded.
    records: bool,
}

impl Store {
    /// Begins to take a snapshot out of the store while a VM runs on it. The pool has an incomplete
    /// file then that a VM can be built of.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn begin_arrival(
        &self,
        pool: &Arc<Pool>,
        name: &str,
        options: &PullOptions<'_>,
        prefetch: Prefetch,
    ) -> Result<Begun<'_>> {
        let object = self.keys.snapshot_object(name);
        let Some(manifest) = self.manifest_in(&object)? else {
            return Err(self.not_found(name));
        };
        let header = &manifest.head.header;
        if let Some(name) = there(pool, header, options) {
            return Ok(Begun::There(name));
        }
        if let Some(why) = needs_all(pool, header) {
            return Ok(Begun::WholeOnly(why));
        }
        let mut landing = Landing::begin(pool, header, options)?;
        let present = manifest.pieces.iter();
        let present: HashSet<ChunkIndex> = present.map(chunk_of).collect();
        let begun = landing.begin_in_any_order(manifest.state.clone(), &present);
        if let Err(error) = begun {
            let error = Error::from(error);
            end(&mut landing, &error);
            return Err(error);
        }
        let recorded = self.touches_of(&manifest);
        Ok(Begun::Arriving(Box::new(Arrival {
            records: recorded.is_none(),
            recorded,
            store: self,
            manifest,
            landing,
            events: channel(),
            prefetch,
        })))
    }
}

/// The name under which the pool has the snapshot, if it has all of it where it would arrive.
fn there(pool: &Arc<Pool>, header: &StreamHeader, options: &PullOptions<'_>) -> Option<String> {
    let own_name = header.name.replace('@', "-");
    let name = options.name.unwrap_or(&own_name);
    let entry = pool.find(name).ok()?;
    (entry.identity == header.identity && !entry.incomplete).then(|| name.to_owned())
}

/// The reason for which no VM can run before all has arrived, if there is one.
fn needs_all(pool: &Arc<Pool>, header: &StreamHeader) -> Option<&'static str> {
    if header.kind != SnapshotKind::Vm {
        Some("it is of a process")
    } else if !header.disks.is_empty() {
        Some("it has disks of the pool")
    } else if pool.medium() == Medium::Hugetlbfs {
        Some("a pool on hugetlbfs maps all memory before a guest runs")
    } else {
        None
    }
}

impl Arrival<'_> {
    /// Says what the VM needs.
    pub fn wants(&self) -> Wants {
        Wants(self.events.0.clone())
    }

    /// Has the touches of this run recorded, also in place of those of an earlier one if `anew`.
    pub fn record_anew(&mut self, anew: bool) {
        self.records |= anew;
    }

    /// The name of the snapshot in the pool.
    pub fn name(&self) -> &str {
        self.landing.name()
    }

    /// The snapshot.
    pub fn header(&self) -> &StreamHeader {
        &self.manifest.head.header
    }

    /// Fetches all, until the snapshot is complete or the VM is gone. `news` hears of it, and says
    /// if the VM is there.
    ///
    /// # Errors
    /// [`nvvmm_snapshot::Error::Interrupted`] when the VM is gone: what has arrived is kept.
    /// [`Error::Pool`] when the incomplete file was removed. [`Error::Damaged`] when the whole is
    /// not what the manifest says; no piece of it is another one than it names.
    pub fn run(self, news: &mut dyn FnMut(ArrivalNews) -> ControlFlow<()>) -> Result<PullReport> {
        let Arrival {
            store,
            manifest,
            mut landing,
            events,
            prefetch,
            recorded,
            records,
        } = self;
        let began = Instant::now();
        let recorded = recorded.unwrap_or_default();
        let mut fetching = Fetching::of(store, &manifest, &mut landing, events, news)?;
        fetching.plan(prefetch, &recorded);
        let all = fetching.until_all_is_there();
        let (fetched_pieces_count, mut touched) = (
            fetching.pulling.fetched_pieces_count,
            std::mem::take(&mut fetching.touched),
        );
        let (_, heard) = fetching.events;
        let completed = all.and_then(|()| Ok(landing.complete()?));
        let received = completed.inspect_err(|error| end(&mut landing, error))?;
        let is_there = news(ArrivalNews::Whole).is_continue();
        if records {
            let until = began + RECORDED;
            while is_there && let Some(left) = until.checked_duration_since(Instant::now()) {
                match heard.recv_timeout(left) {
                    Ok(Event::Touched(more)) => touched.extend(more),
                    Ok(Event::AllWanted | Event::Fetched { .. }) => {}
                    Ok(Event::Lost) | Err(_) => break,
                }
            }
            store.keep_touches(&manifest, &touched);
        }
        Ok(PullReport {
            received,
            pieces_count: manifest.pieces.len() as u64,
            fetched_pieces_count,
            traffic: store.traffic(),
        })
    }
}

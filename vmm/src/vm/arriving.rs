//! A VM whose memory arrives: it listens to the process that fetches.
//!
//! The words of that process are believed as far as the pool shows it: the file must have the
//! identity of the snapshot that the VM is built of. Whoever can write to the pool can write to its
//! guests.

use std::{
    io::{ErrorKind::WouldBlock, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm_snapshot::{FrameMap, Holder, Identity, Resource, SnapshotId, ask_for};

use super::{
    Builder, VmError,
    error::{cow_error, kind_of_lack, take_error},
    reading::ReadSnapshot,
    running::{Operation, RunningVm},
};
use crate::{
    checkpoint::{TakeError, phases::Phases},
    control::arriving::{
        ArrivingStatus, FetcherWord, GuestWord, LINE_BYTES_MAX, NUMBERS_MAX, SILENCE_MAX,
    },
    cow::{Arrival, CHUNK_SIZE_BYTES, CowError, Lack},
    error::ErrorKind,
    sys::peer::{Caller, peer_pid},
    threads::{ThreadKind, begin as begin_thread},
};

/// Time that the other process has for its first word, and to take one of ours.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of looks at whether somebody still waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time that a VM waits for a process that fetches, before its guest runs.
const LINK_PATIENCE: Duration = Duration::from_secs(30);

/// The place where a process that fetches finds the VM's memory.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<Option<Place>>);

#[derive(Clone, Debug)]
struct Place {
    arrival: Weak<Arrival>,
    holder: Weak<Holder>,
    snapshot: String,
    identity: Identity,
}

/// Memory that arrives as long as the machine lives.
#[derive(Debug)]
pub(super) struct Arriving(pub Arc<Arrival>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Arrivals {
    /// Has memory arrive for a machine to come, which is of this snapshot.
    pub fn expect(
        &self,
        arrival: &Arc<Arrival>,
        holder: &Arc<Holder>,
        (snapshot, identity): (&str, Identity),
    ) {
        *self.place() = Some(Place {
            arrival: Arc::downgrade(arrival),
            holder: Arc::downgrade(holder),
            snapshot: snapshot.to_owned(),
            identity,
        });
    }

    /// Takes the stream of a process that fetches.
    ///
    /// # Errors
    /// Nothing is to be fetched, it fetches another snapshot, or there is one already.
    pub fn attach(&self, stream: UnixStream) -> Result<(), VmError> {
        let refused = |why: &str| VmError::new(ErrorKind::Refused, why.to_owned());
        let place = self.place().clone();
        let place = place.ok_or_else(|| refused("the VM expects no memory"))?;
        let gone = || refused("the VM needs no memory any more");
        let arrival = place.arrival.upgrade().ok_or_else(gone)?;
        let failed =
            |error: std::io::Error| VmError::io("hear from the process that fetches", &error);
        let mut link = Link {
            stream,
            pending: Vec::new(),
            place,
            heard_at: Instant::now(),
            is_silent: false,
            away: None,
        };
        link.stream
            .set_write_timeout(Some(PATIENCE))
            .map_err(failed)?;
        link.stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(failed)?;
        let first = link.first_word()?;
        let FetcherWord::Begin {
            identity,
            frames_mapped,
        } = first
        else {
            return Err(refused("the process that fetches does not say what"));
        };
        if identity != link.place.identity.to_string() {
            return Err(refused("that process fetches another snapshot"));
        }
        link.stream.set_nonblocking(true).map_err(failed)?;
        ask_for(Resource::Thread).map_err(failed)?;
        if !arrival.link(frames_mapped) {
            return Err(
                refused("the VM needs no memory, or another process fetches it").with_remedy(
                    "'nvvmm ps' shows what it waits for; end a process that fetches and stands \
                     still with 'kill -9 PID'",
                ),
            );
        }
        let lost = Arc::clone(&arrival);
        let begun = std::thread::Builder::new()
            .name("arrival".into())
            .spawn(move || {
                begin_thread(ThreadKind::Operations);
                if let Err(error) = link.serve(&arrival) {
                    tracing::warn!("memory does not arrive any more: {error}");
                }
                arrival.unlink();
            });
        begun.map(drop).map_err(|error| {
            lost.unlink();
            failed(error)
        })
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to the process that fetches.
struct Link {
    stream: UnixStream,
    pending: Vec<u8>,
    place: Place,
    /// The time of its last word, and whether that is too long ago.
    heard_at: Instant,
    is_silent: bool,
    /// The reason that it gave last for which nothing arrives.
    away: Option<String>,
}

impl Link {
    fn first_word(&mut self) -> Result<FetcherWord, VmError> {
        loop {
            if let Some(word) = self.next_word()? {
                return Ok(word);
            }
            if self.read_more()? == 0 {
                return Err(ended());
            }
        }
    }

    fn next_word(&mut self) -> Result<Option<FetcherWord>, VmError> {
        let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else {
            return match self.pending.len() < LINE_BYTES_MAX {
                true => Ok(None),
                false => Err(senseless()),
            };
        };
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|_| senseless())
    }

    /// Reads some bytes; none at the end of the stream.
    fn read_more(&mut self) -> Result<usize, VmError> {
        let mut part = [0; 4096];
        let count = self.stream.read(&mut part);
        let count =
            count.map_err(|error| VmError::io("hear from the process that fetches", &error))?;
        self.pending.extend_from_slice(&part[..count]);
        Ok(count)
    }

    /// Hears and tells until the memory is there, the VM ends, or the other process does.
    fn serve(mut self, arrival: &Arrival) -> Result<(), VmError> {
        let (mut told, mut is_all_told, mut is_first) = (0, false, true);
        loop {
            // Some of it may have come with the first word.
            if !self.hear(arrival, &mut is_first)? {
                return match arrival.whole() {
                    Some(_) => Ok(()),
                    None => Err(ended()),
                };
            }
            let (touches, is_all_wanted, has_ended) = arrival.wants(told);
            if has_ended {
                return Ok(());
            }
            for some in touches.chunks(NUMBERS_MAX) {
                let some = some.iter().map(|chunk| chunk.get());
                self.tell(&GuestWord::Touched(some.collect()))?;
            }
            told += touches.len();
            if is_all_wanted && !std::mem::replace(&mut is_all_told, true) {
                self.tell(&GuestWord::All)?;
            }
            let mut fds = [
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(arrival.wanted().rings(), PollFlags::POLLIN),
            ];
            let rest = SILENCE_MAX.saturating_sub(self.heard_at.elapsed());
            let rest = match self.is_silent {
                true => PollTimeout::NONE,
                // One more, as the rest is cut to milliseconds.
                false => PollTimeout::from((rest.as_millis() as u16).saturating_add(1)),
            };
            match poll(&mut fds, rest) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(VmError::io("wait for memory", &errno.into())),
            }
            if fds[1].any() == Some(true) {
                arrival.wanted().hear();
            }
            self.note_silence(arrival);
        }
    }

    /// Says that nothing arrives when the other process says nothing, though it should.
    fn note_silence(&mut self, arrival: &Arrival) {
        if self.is_silent || self.heard_at.elapsed() < SILENCE_MAX {
            return;
        }
        self.is_silent = true;
        let why = silent(&self.stream);
        tracing::warn!("the memory of the guest does not arrive for now: {why}");
        arrival.set_away(Some(why));
    }

    /// Takes note that it says something.
    fn note_word(&mut self, arrival: &Arrival) {
        self.heard_at = Instant::now();
        if std::mem::take(&mut self.is_silent) {
            tracing::info!("the process that fetches speaks again");
            arrival.set_away(self.away.clone());
        }
    }

    fn tell(&mut self, word: &GuestWord) -> Result<(), VmError> {
        let failed = |error: std::io::Error| VmError::io("tell the process that fetches", &error);
        let mut line = serde_json::to_vec(word).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.stream.set_nonblocking(false).map_err(failed)?;
        self.stream.write_all(&line).map_err(failed)?;
        self.stream.set_nonblocking(true).map_err(failed)
    }

    /// Takes all that the other process has said. Returns false when it says no more.
    fn hear(&mut self, arrival: &Arrival, is_first: &mut bool) -> Result<bool, VmError> {
        let mut goes_on = true;
        loop {
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => {
                    goes_on = false;
                    break;
                }
                Ok(count) => self.pending.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => {
                    return Err(VmError::io("hear from the process that fetches", &error));
                }
            }
            if self.pending.len() >= LINE_BYTES_MAX {
                break;
            }
        }
        let mut landed: (Vec<(u32, u32)>, Option<u32>) = Default::default();
        let mut is_whole = false;
        while let Some(word) = self.next_word()? {
            self.note_word(arrival);
            match word {
                FetcherWord::Begin { .. } => return Err(senseless()),
                FetcherWord::Landed { chunks, lacking } => {
                    landed.0.extend(chunks);
                    landed.1 = Some(lacking);
                }
                FetcherWord::Away { why } => {
                    tracing::warn!("the memory of the guest does not arrive for now: {why}");
                    self.away = Some(why);
                    arrival.set_away(self.away.clone());
                }
                FetcherWord::Back => {
                    tracing::info!("the memory of the guest arrives again");
                    self.away = None;
                    arrival.set_away(None);
                }
                FetcherWord::Alive => {}
                FetcherWord::Whole => is_whole = true,
            }
        }
        if let (chunks, Some(lacking)) = landed {
            self.pin(|frames, _| arrival.landed(frames, &chunks, lacking, *is_first))?;
            *is_first = false;
        }
        if is_whole {
            self.pin(|frames, id| arrival.complete(id, frames))?;
            tracing::info!("all of the guest's memory has arrived");
        }
        Ok(goes_on)
    }

    /// Pins what there is now of the snapshot, before `take` takes its map, and ends earlier pins
    /// behind it.
    fn pin(
        &self,
        take: impl FnOnce(FrameMap, SnapshotId) -> Result<(), CowError>,
    ) -> Result<(), VmError> {
        let Some(holder) = self.place.holder.upgrade() else {
            return Ok(());
        };
        let (entry, frames) =
            holder.pin_arriving(&self.place.snapshot, Some(self.place.identity))?;
        take(frames, entry.id).map_err(cow_error)?;
        Ok(holder.unpin_others(entry.id)?)
    }
}

fn silent(stream: &UnixStream) -> String {
    let time = SILENCE_MAX.as_secs();
    let pid = peer_pid(stream).map_or(String::new(), |pid| format!(" ({pid})"));
    format!("the process that fetches it{pid} has said nothing for {time} s; it may be stopped")
}

fn ended() -> VmError {
    VmError::failed("the process that fetches has ended")
}

fn senseless() -> VmError {
    VmError::failed("the process that fetches makes no sense")
}

impl Builder<'_> {
    /// Waits until somebody fetches the snapshot.
    pub(super) fn begin_to_arrive(
        &self,
        read: ReadSnapshot,
        phases: &mut Phases,
    ) -> Result<(ReadSnapshot, Option<Arriving>), VmError> {
        let entry = &read.entry;
        // The map goes to the arrival; what is restored is known by then.
        let frames = read.holder.frame_map(entry.id)?;
        let arrival = Arrival::new(frames);
        let arrival = arrival.map_err(|e| VmError::io("wait for memory that arrives", &e))?;
        let arriving = Arriving(Arc::new(arrival));
        let snapshot = (entry.name.as_str(), entry.identity);
        self.arrivals.expect(&arriving.0, &read.holder, snapshot);
        let is_linked = phases.run("AwaitMemory", || arriving.0.wait_linked(LINK_PATIENCE));
        match is_linked {
            true => Ok((read, Some(arriving))),
            false => Err(nobody_fetches()),
        }
    }
}

impl RunningVm {
    /// Memory that has not arrived.
    pub(super) fn arriving_status(&self) -> Option<ArrivingStatus> {
        let lacking = self.arriving.as_ref()?.0.lacking()?;
        Some(ArrivingStatus {
            lacking_bytes: u64::from(lacking.chunks) * CHUNK_SIZE_BYTES as u64,
            away: lacking.away,
        })
    }

    /// Waits until all memory has arrived, for a snapshot that is to have it.
    ///
    /// # Errors
    /// It does not arrive for now, or nobody waits any more.
    pub(super) fn wait_for_arrival(&self, caller: &Caller) -> Result<(), VmError> {
        let Some(Arriving(arrival)) = &self.arriving else {
            return Ok(());
        };
        while !arrival.wait_whole(LOOK_EVERY) {
            if let Some(why) = arrival.lacking().and_then(|lacking| lacking.away) {
                return Err(not_arrived(&why));
            }
            if caller.is_gone() {
                return Err(take_error(TakeError::CallerGone));
            }
            if self.seen().ending {
                return Err(VmError::new(ErrorKind::Refused, "the VM is ending"));
            }
        }
        Ok(())
    }

    /// Has the VM be based on the snapshot that has arrived.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn settle_arrival(&self, operation: &mut Operation) -> Result<(), VmError> {
        let Some(Arriving(arrival)) = self.arriving.as_ref().filter(|_| operation.is_arriving)
        else {
            return Ok(());
        };
        let whole = arrival.whole().ok_or_else(|| {
            let away = arrival.lacking().and_then(|lacking| lacking.away);
            not_arrived(away.as_deref().unwrap_or("it is under way"))
        })?;
        operation.base = Some(whole);
        operation.is_arriving = false;
        Ok(())
    }
}

/// Error of an operation that needs all of the memory.
fn not_arrived(why: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("not all memory of the VM has arrived from the object store: {why}"),
    )
    .with_remedy(
        "try again when 'nvvmm ps' shows no more that arrives; if the process that fetches has \
         ended, 'nvvmm pull URL/NAME --for VM' goes on",
    )
}

/// Error of a VM for which nobody fetches.
fn nobody_fetches() -> VmError {
    let kind = kind_of_lack(Lack::Store);
    VmError::new(
        kind,
        "the memory of the snapshot has not arrived, and nobody fetches it",
    )
    .with_remedy("'nvvmm restore URL/NAME --name VM' fetches it")
}

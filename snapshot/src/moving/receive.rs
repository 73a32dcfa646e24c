//! Receives a snapshot as a stream.
//!
//! Received frames are committed now and then as an *incomplete* file. It has the name and the
//! identity of the snapshot, and cannot be used as one. The commit that makes the snapshot removes
//! it. An interrupted reception leaves it, and the next reception of the same snapshot reuses the
//! frames in it. A stream that is refused removes it.

use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::MoveProgress;
use super::receiver::Receiver;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::identity::{ContentRoot, Identity};
use crate::number::{BLOCK_SIZE_BYTES, SnapshotId};
use crate::stream::{Item, StreamReader};

/// Frames stored between two commits: 32 MiB.
const KEEP_FRAMES: u64 = 8192;

/// Options of receiving a snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReceiveOptions<'a> {
    /// The name of the new snapshot. The default is its own, with `-` for `@`.
    pub name: Option<&'a str>,
    /// The snapshot of this pool that the stream builds on. The default is the one with the content
    /// that the stream names. A stream of format version 1 names none.
    pub onto: Option<&'a str>,
    /// Most bytes of memory that may be stored.
    pub limit_bytes: Option<u64>,
}

/// The result of a reception.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiveReport {
    /// The new snapshot.
    pub name: String,
    /// Its id in this pool.
    pub id: SnapshotId,
    /// The identity that it has in any pool.
    pub identity: Identity,
    /// The root of its content, computed of what is in this pool.
    pub content_root: Option<ContentRoot>,
    /// The snapshot of this pool that the stream builds on.
    pub since: Option<String>,
    /// Another one of this pool that was looked at for what is the same.
    pub like: Option<String>,
    /// An earlier reception was interrupted, and this one went on with what that had stored.
    pub resumed: bool,
    /// Frames whose content was in the stream.
    pub frames_received: u64,
    /// Blocks that were written for them, and where the medium is shared by whole chunks for their
    /// neighbours.
    pub frames_stored: u64,
    /// Frames of the stream that were in the pool already.
    pub frames_found: u64,
    /// Frames of the snapshot that are shared with the one that the stream builds on.
    pub frames_shared: u64,
    /// Bytes of the frames and the state that were in the stream.
    pub bytes_raw: u64,
    /// Bytes of the stream.
    pub bytes_stream: u64,
}

impl Pool {
    /// Reads a stream, and makes it a snapshot of this pool, which is foreign. `on_progress` is
    /// called for each record; when it breaks, what has arrived is kept for the next reception of
    /// the same snapshot.
    ///
    /// # Errors
    /// [`Error::NotAStream`], [`Error::StreamVersion`], [`Error::StreamSealed`],
    /// [`Error::StreamDamaged`], [`Error::OverLimit`]: nothing is left. [`Error::StreamCut`],
    /// [`Error::Interrupted`], [`Error::Io`]: what has arrived is kept. [`Error::PoolFull`],
    /// [`Error::NoSpaceOnMedium`], [`Error::NoRoom`]: it is kept if nobody else uses the pool.
    /// [`Error::NoBase`], [`Error::WrongBase`], [`Error::BaseUnproven`], [`Error::NameTaken`],
    /// [`Error::BeingReceived`], [`Error::InvalidName`]: nothing was read but the header.
    pub fn receive(
        self: &Arc<Self>,
        options: &ReceiveOptions<'_>,
        input: &mut dyn Read,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<ReceiveReport> {
        let mut reader = StreamReader::begin(input)?;
        // A checkpoint arrives as a snapshot that no ring takes for its own.
        let own_name = || reader.header().name.replace('@', "-");
        let name = options.name.map_or_else(own_name, str::to_owned);
        let mut receiver = Receiver::begin(self, &name, reader.header(), options)?;
        let received = receive_all(&mut reader, &mut receiver, on_progress)
            .and_then(|state| receiver.complete(&state).map(|id| (id, state.len())));
        match received {
            Ok((id, state_bytes)) => {
                let counts = receiver.counts();
                Ok(ReceiveReport {
                    name,
                    id,
                    identity: reader.header().identity,
                    content_root: receiver.root(),
                    since: receiver.since(),
                    like: receiver.like(),
                    resumed: receiver.is_resumed(),
                    frames_received: counts.received,
                    frames_stored: counts.stored,
                    frames_found: counts.found,
                    frames_shared: counts.shared,
                    bytes_raw: counts.received * BLOCK_SIZE_BYTES + state_bytes as u64,
                    bytes_stream: reader.bytes(),
                })
            }
            Err(error) => {
                // Those who run in the pool need the space.
                let starves = is_full(&error) && receiver.has_others();
                let is_kept = is_interruption(&error) && receiver.is_worth_keeping();
                let left = if is_kept && !starves {
                    receiver.keep()
                } else {
                    receiver.discard()
                };
                if let Err(left) = left {
                    tracing::warn!(%left, name, "could not keep or remove what was received");
                }
                Err(error)
            }
        }
    }
}

/// Stores all that a stream has; the saved state.
fn receive_all(
    reader: &mut StreamReader<'_>,
    receiver: &mut Receiver,
    on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
) -> Result<Vec<u8>> {
    let bytes_total = reader.header().bytes_total();
    let disks = reader.header().disks.clone();
    let memory_bytes = reader.header().memory_bytes;
    let mut bytes_done = 0;
    let mut state = Vec::new();
    loop {
        let progress = MoveProgress {
            bytes_done,
            bytes_total,
        };
        if on_progress(progress).is_break() {
            return Err(Error::Interrupted);
        }
        match reader.next()? {
            Item::State(bytes) => {
                receiver.state(&bytes);
                state = bytes;
            }
            Item::Chunk(chunk) => {
                let sizes = std::iter::once(memory_bytes);
                let sizes = sizes.chain(disks.iter().map(|disk| disk.size_bytes));
                bytes_done = sizes.take(chunk.map).sum::<u64>() + chunk.index.byte_offset();
                receiver.chunk(chunk)?;
            }
            Item::End(_) => {
                receiver.rest()?;
                return Ok(state);
            }
        }
        if receiver.stored_unkept() >= KEEP_FRAMES {
            receiver.keep()?;
        }
    }
}

/// True when the same stream, sent again, may be received.
fn is_interruption(error: &Error) -> bool {
    match error {
        Error::StreamCut | Error::Interrupted => true,
        Error::Io { source, .. } => source.kind() != ErrorKind::InvalidData,
        error => is_full(error),
    }
}

fn is_full(error: &Error) -> bool {
    matches!(
        error,
        Error::PoolFull { .. }
            | Error::NoSpaceOnMedium { .. }
            | Error::MediumFull { .. }
            | Error::NoRoom { .. }
    )
}

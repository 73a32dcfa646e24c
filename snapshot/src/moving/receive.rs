//! Receives a snapshot as a stream.
//!
//! Received frames are committed now and then as an *incomplete* file. It has the name and the
//! identity of the snapshot, and cannot be used as one. The commit that makes the snapshot removes
//! it. An interrupted reception leaves it, and the next reception of the same snapshot reuses the
//! frames in it. A stream that is refused removes it.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::MoveProgress;
use super::landing::Landing;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::identity::{ContentRoot, Identity};
use crate::number::SnapshotId;
use crate::stream::{Item, StreamReader};

/// Options of receiving a snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReceiveOptions<'a> {
    /// The name of the new snapshot. The default is its own, with `-` for `@`.
    pub name: Option<&'a str>,
    /// The snapshot of this pool that the stream builds on. The default is the one with the content
    /// that the stream names. A stream of format version 1 names none.
    pub onto: Option<&'a str>,
    /// A snapshot of this pool that is likely to have much of this one, and is compared with it.
    /// The default is what has its identity, or that of its parent.
    pub like: Option<&'a str>,
    /// Most bytes of memory that may be stored.
    pub limit_bytes: Option<u64>,
    /// The process of a VM that runs on the incomplete file already.
    pub beside: Option<u32>,
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
        let mut landing = Landing::begin(self, reader.header(), options)?;
        let received =
            receive_all(&mut reader, &mut landing, on_progress).and_then(|()| landing.complete());
        match received {
            Ok(report) => Ok(ReceiveReport {
                bytes_stream: reader.bytes(),
                ..report
            }),
            Err(error) => {
                landing.end(Some(&error));
                Err(error)
            }
        }
    }
}

/// Stores all that a stream has.
fn receive_all(
    reader: &mut StreamReader<'_>,
    landing: &mut Landing,
    on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
) -> Result<()> {
    let header = reader.header().clone();
    let bytes_total = header.bytes_total();
    let mut bytes_done = 0;
    loop {
        let progress = MoveProgress {
            bytes_done,
            bytes_total,
        };
        if on_progress(progress).is_break() {
            return Err(Error::Interrupted);
        }
        match reader.next()? {
            Item::State(state) => landing.state(state),
            Item::Chunk(chunk) => {
                bytes_done = header.bytes_before(chunk.map, chunk.index);
                landing.chunk(chunk)?;
            }
            Item::End(_) => return Ok(()),
        }
    }
}

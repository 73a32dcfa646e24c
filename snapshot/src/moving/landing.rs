//! A snapshot that arrives from elsewhere, chunk by chunk, from a stream or by other means.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;

use super::receive::{ReceiveOptions, ReceiveReport};
use super::receiver::Receiver;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::number::{BLOCK_SIZE_BYTES, ChunkIndex, FrameSet};
use crate::stream::{ChunkRecord, RecordChecks, StreamHeader};

/// Frames stored between two commits: 32 MiB.
const KEEP_FRAMES: u64 = 8192;

/// A reception under way. The state comes first, then chunks in order: of memory, then of each
/// disk; or in any order ([`Landing::begin_in_any_order`]). All that arrives is checked as what a
/// stream has, and nothing of it is a snapshot before [`Landing::complete`].
pub struct Landing {
    receiver: Receiver,
    header: StreamHeader,
    checks: RecordChecks,
    name: String,
    state: Vec<u8>,
    /// A VM runs on what is here, so chunks come in the order in which it needs them.
    in_any_order: bool,
    /// True once all is committed, or removed.
    has_ended: bool,
}

impl Landing {
    /// Takes the name, and room for what the header declares. The new snapshot will be foreign.
    ///
    /// # Errors
    /// Those of [`Pool::receive`] before it reads more than the header.
    pub fn begin(
        pool: &Arc<Pool>,
        header: &StreamHeader,
        options: &ReceiveOptions<'_>,
    ) -> Result<Landing> {
        // A checkpoint arrives as a snapshot that no ring takes for its own.
        let own_name = || header.name.replace('@', "-");
        let name = options.name.map_or_else(own_name, str::to_owned);
        Ok(Landing {
            receiver: Receiver::begin(pool, &name, header, options)?,
            header: header.clone(),
            checks: RecordChecks::default(),
            name,
            state: Vec::new(),
            in_any_order: false,
            has_ended: false,
        })
    }

    /// Takes the saved state.
    pub fn state(&mut self, state: Vec<u8>) {
        self.receiver.state(&state);
        self.state = state;
    }

    /// Takes the saved state, and has the incomplete file be one that a VM can be built from: it
    /// has the state, and no chunk of memory that is not `present`. From here on chunks may come in
    /// any order, each one once. There must be no disks.
    ///
    /// # Errors
    /// [`Error::PoolFull`] and the like; [`Error::Io`].
    pub fn begin_in_any_order(
        &mut self,
        state: Vec<u8>,
        present: &HashSet<ChunkIndex>,
    ) -> Result<()> {
        self.in_any_order = true;
        self.receiver.begin_in_any_order(&state, present)?;
        self.state = state;
        Ok(())
    }

    /// The name that the snapshot has here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Commits what has arrived, incomplete as it is: whoever runs on it may use it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when a user has removed it; [`Error::PoolFull`] and the like;
    /// [`Error::Io`].
    pub fn keep(&mut self) -> Result<()> {
        self.receiver.keep().map(drop)
    }

    /// Reads what the pool is likely to have of a chunk already: frames, and all 2 MiB of which
    /// theirs are a part. What is equal need not be fetched, and is not stored again.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn here(&mut self, map: usize, index: ChunkIndex) -> Result<Option<(FrameSet, &[u8])>> {
        self.receiver.here(map, index)
    }

    /// Stores a chunk. What has arrived is committed now and then.
    ///
    /// # Errors
    /// [`Error::StreamDamaged`]; [`Error::PoolFull`] and the like; [`Error::Io`].
    pub fn chunk(&mut self, record: &ChunkRecord) -> Result<()> {
        if self.in_any_order {
            let before = self.checks.clone();
            self.checks.begin_anywhere();
            let stored = self.checks.next(&self.header, record);
            let stored = stored.and_then(|()| self.receiver.chunk_in_any_order(record));
            // The same chunk may come again.
            return stored.inspect_err(|_| self.checks = before);
        }
        self.checks.next(&self.header, record)?;
        RecordChecks::end_of_disk(&self.header, record)?;
        self.receiver.chunk(record)?;
        if self.receiver.stored_unkept() >= KEEP_FRAMES {
            self.receiver.keep()?;
        }
        Ok(())
    }

    /// Makes it a snapshot, if the root of its content is the one that the header names.
    ///
    /// # Errors
    /// [`Error::StreamDamaged`]; [`Error::PoolFull`] and the like; [`Error::Io`].
    pub fn complete(&mut self) -> Result<ReceiveReport> {
        let (id, root) = match self.in_any_order {
            true => {
                let root = Some(self.receiver.root_of_all()?);
                (self.receiver.complete_with(&self.state, root)?, root)
            }
            false => {
                self.receiver.rest()?;
                let id = self.receiver.complete(&self.state)?;
                (id, self.receiver.root())
            }
        };
        self.has_ended = true;
        let (receiver, counts) = (&self.receiver, self.receiver.counts());
        Ok(ReceiveReport {
            name: self.name.clone(),
            id,
            identity: self.header.identity,
            content_root: root,
            since: receiver.since(),
            like: receiver.like(),
            resumed: receiver.is_resumed(),
            frames_received: counts.received,
            frames_stored: counts.stored,
            frames_found: counts.found,
            frames_shared: counts.shared,
            bytes_raw: counts.received * BLOCK_SIZE_BYTES + self.state.len() as u64,
            bytes_stream: 0,
        })
    }

    /// Ends a reception that failed, or without an error one that can go on later. What has arrived
    /// is kept if the same can be received again, and nobody in the pool needs its space.
    pub fn end(&mut self, error: Option<&Error>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let starves = error.is_some_and(is_full) && self.receiver.has_others();
        let is_kept = error.is_none_or(is_interruption) && self.receiver.is_worth_keeping();
        let left = match is_kept && !starves {
            true => self.receiver.keep().map(drop),
            false => self.receiver.discard(),
        };
        if let Err(left) = left {
            tracing::warn!(%left, self.name, "could not keep or remove what was received");
        }
    }
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Landing")
            .field("name", &self.name)
            .finish_non_exhaustive()
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

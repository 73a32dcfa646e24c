//! Words between a VM whose memory arrives and the process that fetches it: one JSON document per
//! line, over a stream that comes with [`Request::Arrive`](super::message::Request::Arrive).
//!
//! ```text
//! fetcher > {"begin":{"identity":"2c7e...","frames_mapped":131072}}
//! fetcher > {"landed":{"chunks":[[0,3],[7,256]],"lacking":4}}
//! VM      > {"touched":[3,4]}
//! fetcher > {"away":{"why":"cannot read packs/...: connection refused"}}
//! fetcher > "back"
//! fetcher > "alive"
//! fetcher > "whole"
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest line, either way.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Numbers of chunks, or pairs of them, in one line.
pub const NUMBERS_MAX: usize = 1024;

/// Interval at which the process that fetches says something.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// Time after which one that says nothing counts as standing still.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Word of the process that fetches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetcherWord {
    /// The first word: the snapshot that is fetched.
    Begin {
        /// Identity of the snapshot.
        identity: String,
        /// Frames that it has.
        frames_mapped: u64,
    },
    /// These chunks are in the committed file.
    Landed {
        /// Chunks, from the first to before the second.
        chunks: Vec<(u32, u32)>,
        /// Chunks that have not arrived.
        lacking: u32,
    },
    /// Something cannot be fetched for now.
    Away {
        /// The cause.
        why: String,
    },
    /// All of that has been fetched after all.
    Back,
    /// Nothing has happened for a while.
    Alive,
    /// The snapshot is complete.
    Whole,
}

/// Word of the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestWord {
    /// The guest has touched these chunks first, in this order.
    Touched(Vec<u32>),
    /// Somebody waits for all of it.
    All,
}

/// Memory of a VM that has not arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivingStatus {
    /// Memory that is still to come, at most.
    pub lacking_bytes: u64,
    /// The reason why none comes for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
}

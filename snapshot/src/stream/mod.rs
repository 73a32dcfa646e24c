//! Snapshots as streams of bytes: what `nvvmm send` writes and `nvvmm receive` reads.
//! docs/formats/stream.md describes every byte.
//!
//! ```text
//! prelude | header record | state record | chunk record ... | end record
//! ```
//! A [record](record) carries a digest of itself and of all before it, so the one of the end record
//! is that of the whole stream: what was cut off, changed, left out, repeated, put in another place
//! or taken from another stream is found at the first record that is not as it was written. No
//! length is believed beyond a fixed limit, and nothing is decompressed before its digest fits.
//!
//! A digest is no signature. Where others can write to what carries a stream, it is [sealed] with a
//! key.

mod checks;
mod disks;
mod header;
mod payload;
mod reader;
mod record;
mod root;
pub mod sealed;
mod writer;

pub use crate::identity::BaseId;
pub(crate) use checks::RecordChecks;
pub use disks::StreamDisk;
pub use header::{BaseOf, StreamHeader};
pub use payload::{ChunkRecord, StreamTotals};
pub use reader::{Item, StreamReader};
pub use record::Stopped;
pub use root::{ChunkDigest, RootHasher};
pub use writer::StreamWriter;

#[cfg(test)]
mod format_test;
#[cfg(test)]
mod sealed_test;
#[cfg(test)]
mod stream_test;

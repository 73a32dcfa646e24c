//! Snapshots in an object store that users have already: S3 and what speaks it, Google Cloud
//! Storage, Azure, or a shared directory. Nothing of our own runs there.
//!
//! A [`Store`] is a prefix of a bucket. [`Store::push`] takes a snapshot out of a pool and stores
//! what the store lacks; [`Store::pull`] makes a snapshot of a pool of it. Memory and disks are cut
//! into pieces of 512 KiB, which are named by their content and lie in packs. A manifest says which
//! pieces a snapshot is made of; it is written last. [`Store::gc`] deletes what no manifest needs.
//!
//! docs/formats/remote.md describes every byte, docs/inside/remote-store.md why nothing is deleted
//! that somebody counts on.
//!
//! # Layers
//!
//! From bottom to top. A module imports only modules that are listed before it.
//!
//! 1. `error`
//! 2. `url`: names of stores; `objects`: requests to a store, without `async`
//! 3. `boxes`: what is around payloads; `keys`: names of pieces, and seals; `layout`: bytes of what
//!    is in a store
//! 4. `piece`: content as a piece, and back
//! 5. `store`: an open store
//! 6. `known`: pieces that a store has; `uploads`: packs on their way; `touches`: what guests touch
//! 7. `push`, `pull`, `listing`, `gc`, `verify`
//! 8. `fetching`: chunks on their way while a VM runs; `arriving`

mod arriving;
mod boxes;
mod error;
mod fetching;
mod gc;
mod keys;
mod known;
mod layout;
mod listing;
mod objects;
mod piece;
mod pull;
mod push;
mod store;
mod touches;
mod uploads;
mod url;
mod verify;

#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use arriving::{Arrival, Begun};
pub use error::{Error, Result};
pub use fetching::{ArrivalNews, Prefetch, Wants};
pub use gc::{GcOptions, GcReport, PushUnderWay};
pub use layout::PIECE_BYTES;
pub use layout::ids::{ObjectId, PackId};
pub use listing::{RemoteSnapshot, Removed};
pub use objects::Traffic;
pub use pull::{PullOptions, PullReport};
pub use push::{PushOptions, PushReport, Pusher};
pub use store::{Store, TOUCHES, Use};
pub use url::StoreUrl;
pub use verify::{Fault, VerifyReport};

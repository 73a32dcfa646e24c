//! Promises of a pool to its users, one call at a time.

#![allow(clippy::unwrap_used)]

mod blocks;
mod caching;
mod consuming;
mod fixture;
mod foreign;
mod forged;
mod images;
mod leaks;
mod moving;
mod moving_disks;
#[path = "../place/mod.rs"]
mod place;
mod promises;
mod refusals;
mod room;
mod sharing;
mod stale;
mod streams;
mod versions;

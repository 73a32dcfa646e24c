//! Promises of a pool to its users, one call at a time.

#![allow(clippy::unwrap_used)]

mod blocks;
mod consuming;
mod fixture;
mod foreign;
mod images;
mod leaks;
mod moving;
#[path = "../place/mod.rs"]
mod place;
mod promises;
mod refusals;
mod sharing;
mod stale;

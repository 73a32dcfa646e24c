//! Tests of a store with pools, over directories, memory, and stores that fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arriving;
mod collections;
mod faults;
mod forged;
mod moving;
mod pools;
mod series;
mod stores;
mod versions;

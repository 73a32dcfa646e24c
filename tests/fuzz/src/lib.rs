//! Fuzz targets for all data that nvvmm reads from a pool, a socket, a file or a guest.
//!
//! A target is a function of the fuzzer's bytes. It makes a small fixture, gives it the bytes, and
//! panics if a promise is broken. README.md says how to run a target and how to add one.

pub mod boot;
pub mod control;
pub mod devices;
pub mod image;
pub mod pool;
pub mod protocol;
pub mod remote;
pub mod script;
pub mod state;
pub mod stream;

#[cfg(test)]
mod fixture_test;

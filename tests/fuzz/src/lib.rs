//! Fuzz targets for all that nvvmm reads from a pool, a socket, a file or a guest.
//!
//! A target is a function of the fuzzer's bytes: it makes a small world, lets it meet the bytes,
//! and panics where a promise is broken. README.md says how to run one and how to add one.

pub mod boot;
pub mod control;
pub mod devices;
pub mod pool;
pub mod protocol;
pub mod script;
pub mod state;
pub mod stream;

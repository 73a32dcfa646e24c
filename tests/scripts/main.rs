//! Scripts for users: installation, packages, the Debian image, kernels, the nested harness.
//!
//! Programs that take minutes, or that need a network, have stand-ins here. The tests that are
//! ignored run the real ones; `cargo test -p nvvmm-tests --test scripts -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod image;
mod install;
mod kernel;
mod nested;
mod place;

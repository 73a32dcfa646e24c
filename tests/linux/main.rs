//! Stock Linux guests: what a snapshot promises to an operating system. Run directly where KVM can boot Linux,
//! otherwise inside the nested harness (scripts/test.sh decides).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod disk;
mod life;
mod memory;
mod process;
mod writers;

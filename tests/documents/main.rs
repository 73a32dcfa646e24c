//! Runs the commands in the documents.
//!
//! Every `console` block of README.md and docs/ says in its info string how it is run
//! (docs/contributing/tests.md, "Documents"):
//!
//! - `commands`: every nvvmm command line is read by the program's own parser; scripts and their
//!   options exist. Needs nothing.
//! - `bare_metal`: blocks `console,bare-metal` are run on /dev/kvm.
//! - `linux`: blocks `console,linux` of the book are run where KVM boots Linux.
//! - `quickstart`: those of README.md are run as typed, from a clean clone (scripts/quickstart.sh).
//! - `install`: blocks `console,install` are run with a home directory of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bare_metal;
mod commands;
mod install;
mod linux;
mod markdown;
mod quickstart;
mod run;
mod session;
mod shell;
mod transcript;

//! The bare-metal guest on /dev/kvm: promises of a snapshot about memory, on any KVM.
//!
//! Each module tests one promise. They need `NVVMM_BIN` and `NVVMM_BAREMETAL_GUEST`, which
//! scripts/test.sh sets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod altered_state;
mod bad_input;
mod balloon;
mod bench;
mod commands;
mod core_dump;
mod counters;
mod diff;
mod dirty_log;
mod disks;
mod export;
mod fault_points;
mod foreground;
mod foreign;
mod full_medium;
mod full_pool;
mod gaps;
mod grow;
mod guest_log;
mod host_lacks;
mod hosts;
mod identity;
mod inspect;
mod instant;
mod json;
mod kill;
mod kinds;
mod lacks;
mod lazy;
mod library;
mod life;
mod migrate;
mod moving;
mod network;
mod never_run;
mod other_user;
mod pool_disks;
mod remote;
mod replicate;
mod rewind;
mod ring;
mod sandbox;
mod scrub;
mod sharing;
mod spare;
mod stale_disks;
mod start;
mod stopped;
mod tree;
mod verbose;

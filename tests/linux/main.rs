//! Stock Linux guests: promises of a snapshot to an operating system. They run directly where KVM
//! can boot Linux, otherwise inside the nested harness (scripts/test.sh decides).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod balloon;
mod block;
mod clocks;
mod debian;
mod debugger;
mod disk;
mod identity;
mod iperf;
mod life;
mod many_copies;
mod memory;
mod network;
mod pool_disk;
mod process;
mod real_programs;
#[path = "../../guest/process/tests/scenarios.rs"]
mod scenarios;
mod secret;
mod subjects;
mod tls;
mod window;
#[path = "../../guest/process/tests/workloads.rs"]
mod workloads;
mod writers;

//! Captures programs that run here, restarts them, and lets them verify themselves. Needs root;
//! without it, it says so and fails where `NVVMM_REQUIRE_ROOT` is set.

mod adopts;
mod event_loops;
mod harness;
mod interfaces;
mod moves;
#[path = "../proc_view.rs"]
mod proc_view;
mod programs;
mod refuses;
mod reserves;
#[path = "../scenarios.rs"]
mod scenarios;
mod servers;
mod survives;
mod terminals;
mod trees;
mod windows;
#[path = "../workloads.rs"]
mod workloads;

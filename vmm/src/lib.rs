//! nvvmm: a checkpointer for virtual machines on Linux KVM.
//!
//! Guest RAM is mapped from a *pool* (crate `nvvmm-snapshot`); a snapshot shares the guest's frames
//! with a snapshot file by reference and write-protects them, a restore maps the file's blocks into
//! a new guest. `docs/inside` has the flow, the invariants and the glossary.

pub mod agent;
pub mod boot;
pub mod checkpoint;
pub mod control;
pub mod cow;
pub mod inspect;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod process;
pub mod ring;
pub mod spec;
pub mod stats;
pub mod sys;
pub mod vm;
pub mod window;

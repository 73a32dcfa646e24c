//! nvvmm: checkpoints of virtual machines on Linux KVM, as a library.
//!
//! Guest RAM is mapped from a *pool* (crate `nvvmm-snapshot`). A snapshot shares the guest's frames
//! with a snapshot file by reference and write-protects them. A restore maps the file's blocks into
//! a new guest. `docs/inside` has the flow, the invariants and the glossary.
//!
//! A program that runs VMs needs [`Pool`] and [`Vm`]:
//!
//! ```no_run
//! # use nvvmm::{CreateOptions, Pool, Vm, VmOptions, VmSpec};
//! # fn example(spec: VmSpec) -> Result<(), Box<dyn std::error::Error>> {
//! let options = CreateOptions { size_bytes: 1 << 30, overcommit: false };
//! let pool = Pool::create("/dev/shm/vms.pool".as_ref(), &options)?;
//! let vm = Vm::boot(&pool, spec, VmOptions::named("original"))?;
//! vm.snapshot("base")?;
//! let copy = Vm::restore(&pool, "base", VmOptions::named("copy"))?;
//! vm.rewind("base")?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/clone.rs` is a whole program. The command `nvvmm` (package `nvvmm-cli`) is built on
//! the same API; the modules [`control`] and [`agent`] are for it.
//!
//! A [`Vm`] uses no sockets unless [`VmOptions`] asks for them, reads no environment variables, and
//! never ends the process. It has one effect on the whole process: the first VM installs a handler
//! for the signal `SIGRTMIN` that does nothing, to get vCPU threads out of `KVM_RUN`. A program
//! that embeds VMs must not use that signal.

pub mod agent;
pub mod arch;
pub mod checkpoint;
pub mod control;
pub mod cow;
pub mod disk;
pub mod error;
pub mod inspect;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod net;
pub mod process;
pub mod ring;
pub mod spec;
pub mod stats;
pub mod sys;
pub mod threads;
pub mod vm;
pub mod window;

pub use control::{RewindRequest, RingRequest, SnapshotRequest, VmStatus};
pub use error::{ErrorKind, VmError};
pub use nvvmm_devices::ConsoleStreams;
pub use nvvmm_snapshot::{CreateOptions, GrowOptions, Pool, SnapshotEntry};
pub use spec::{DiskSource, DiskSpec, VmSpec, VmSpecBuilder};
pub use vm::{BootChoice, OnReboot, RestoreOptions, Vm, VmExit, VmOptions, VmSource};

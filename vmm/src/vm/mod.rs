//! One VM process from start to end: the pool's holder, guest RAM, the machine and its control
//! socket.

mod audit;
mod build;
mod error;
mod plan;
mod process;
mod rewind;
mod ring;
mod running;
mod supervisor;

pub use build::Builder;
pub use plan::{ConsoleMode, Origin, RunPlan, VmError, VmExit};
pub use running::RunningVm;
pub use supervisor::run;

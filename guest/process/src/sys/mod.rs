//! System calls that neither the standard library nor nix offers. All of this crate's `unsafe` is
//! here.

mod process;
mod ptrace;
mod terminal;

pub use process::{
    FileTable, Schedule, affinity, clone_stub, kill, limit, nice, pidfd_getfd, pidfd_open,
    robust_list, same_open_file, schedule, set_affinity, set_limit, set_nice, set_schedule,
    share_table,
};
pub use ptrace::{
    Options, Queue, Stop, Waited, continue_with, detach, interrupt, pending_signals, poll_stop,
    registers, rseq_area, seize, set_registers, set_signal_mask, set_xstate, signal_mask,
    step_syscall, wait_stop, xstate,
};
pub use terminal::{set_terminal_modes, terminal_modes};

use std::io;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

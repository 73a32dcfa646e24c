//! System calls that neither the standard library nor nix offers. All of this crate's `unsafe` is
//! here.

mod held;
mod process;
mod ptrace;
mod sockets;
mod special;
mod terminal;
mod unix_sockets;

pub use held::{
    Segment, View, add_seals, lock_segment, make_segment, memory_file, remove_segment, seals,
    segment, shared_anonymous,
};
pub use process::{
    FileTable, OWNER_GROUP, OWNER_THREAD, Schedule, WITNESS_NAME, affinity, can_flush_l1d,
    clone_stub, clone_witness, core_cookie, file_owner, has_landlock, kill, limit, lock_range,
    lock_whole, nice, pidfd_getfd, pidfd_open, robust_list, same_open_file, schedule, set_affinity,
    set_limit, set_nice, set_schedule, share_table,
};
pub use ptrace::{
    Options, Queue, Stop, Waited, continue_with, detach, dispatches_calls, filter, interrupt,
    pending_signals, poll_stop, registers, rseq_area, seize, set_registers, set_signal_mask,
    set_xstate, signal_mask, step_syscall, wait_stop, xstate,
};
pub use sockets::{
    accept, address, bind, connect, listen, make_socket, peek_stream, peer_address, send_all,
    set_socket_option, shut_down, socket_option,
};
pub use special::{
    add_watch, arm_timer, choose_next_watch, clock, drain, event_counter, is_ready, is_watched,
    open_by_handle, poll_set, ready_for, remove_watch, set_timer_ticks, signals, timer, timer_left,
    watches,
};
pub use terminal::{
    ModeBytes, all_modes, foreground, has_locked_modes, has_packets, insert_byte, is_exclusive,
    open_peer, queued, set_all_modes, set_flow, set_packets, set_terminal_modes, set_window_size,
    terminal_device, terminal_modes, terminal_number, unlock_terminal, window_size,
};
pub use unix_sockets::{UnixSocket, maker, unix_sockets};

use std::io;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

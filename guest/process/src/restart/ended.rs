//! Children that ended and were not waited for, and processes that were stopped.

use super::blank::{self, Blank};
use crate::error::{Error, failed};
use crate::image::Ended;
use crate::sys::{self, Waited};

/// The length of the kernel's signal mask.
const SIGSET_BYTES: u64 = 8;

/// Ends a child as its process ended. Its parent is told, and can wait for it.
pub fn end(child: &Ended, blank: &Blank) -> Result<(), Error> {
    let mut name = child.name.clone();
    name.push(0);
    let address = blank.put(&name)?;
    let set_name = [libc::PR_SET_NAME as u64, address, 0, 0, 0];
    blank.call("set the name", libc::SYS_prctl, &set_name)?;
    if child.status & 0xff == 0 {
        blank.leader.exit(child.status >> 8)?;
        return blank::reap(child.pid).map_err(failed("wait for the end of a child"));
    }
    // No core dump: its process left none.
    let not_dumped = [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0];
    blank.call("prevent a core dump", libc::SYS_prctl, &not_dumped)?;
    kill(child.pid, child.status, blank)
}

/// Stops a process that has one thread.
pub fn stop(blank: &Blank) -> Result<(), Error> {
    kill(blank.leader.tid(), libc::SIGSTOP, blank)
}

fn kill(pid: i32, signal: i32, blank: &Blank) -> Result<(), Error> {
    let doing = || failed(format!("send process {pid} the signal {signal}"));
    blank.leader.wait_for_signals(blank.workspace.idle())?;
    sys::kill(pid, signal).map_err(doing())?;
    sys::continue_with(pid, 0).map_err(doing())?;
    loop {
        match sys::wait_stop(pid).map_err(doing())? {
            Waited::Ended => return Ok(()),
            Waited::Stopped(sys::Stop::Trap { signal: found }) if found == signal => {
                return blank.leader.block_signals();
            }
            Waited::Stopped(sys::Stop::Signal(found)) => {
                sys::continue_with(pid, found).map_err(doing())?;
            }
            Waited::Stopped(_) => sys::continue_with(pid, 0).map_err(doing())?,
            Waited::Runs => {}
        }
    }
}

/// Takes the signal of a child's end from its parent, which stands still: the parent has had it.
pub fn forget_signal(parent: &Blank, signal: i32) -> Result<(), Error> {
    if signal == 0 {
        return Ok(());
    }
    // The set, then a time of zero.
    let numbers = [1u64 << (signal - 1), 0, 0];
    let set = parent.put(&numbers.map(u64::to_le_bytes).concat())?;
    let arguments = [set, 0, set + SIGSET_BYTES, SIGSET_BYTES];
    // EAGAIN: there is none (any more).
    while parent
        .leader
        .try_call(libc::SYS_rt_sigtimedwait, &arguments)?
        .is_ok()
    {}
    Ok(())
}

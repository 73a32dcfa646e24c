//! Threads of a stub.

use super::credentials;
use super::process::set_limits;
use super::stubs::{Stub, StubThread, signal_of};
use crate::error::{Error, failed};
use crate::image::{Thread, ThreadSettings};
use crate::observe;
use crate::sys;

const SHARE_ALL: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_SET_SPECULATION_CTRL: u64 = 53;
/// In an answer: the thread may choose.
const PR_SPEC_PRCTL: u32 = 1;
const PR_SPEC_ENABLE: u32 = 2;
/// Not a flag that may be set: the kernel says by it where the thread runs.
const SS_ONSTACK: i32 = 1;

/// Starts all threads but the leader, which is there.
pub fn start(stub: &mut Stub) -> Result<(), Error> {
    for thread in &stub.process.threads[1..] {
        let remote = stub.blank.clone_with(thread.tid, SHARE_ALL as u64, 0)?;
        stub.others.push(remote);
    }
    Ok(())
}

/// Sets what each thread has of its own, and the limits of the process: both need privileges that
/// the threads lose here.
pub fn set(stub: &Stub) -> Result<(), Error> {
    for (index, (remote, thread)) in stub.threads().zip(&stub.process.threads).enumerate() {
        scheduling(thread)?;
        let stub_thread = StubThread { stub, remote };
        set_own(&stub_thread, thread)?;
        let settings = stub
            .settings
            .and_then(|settings| settings.threads.get(index));
        if let Some(settings) = settings {
            further(&stub_thread, settings)?;
        }
    }
    set_limits(stub)?;
    for (remote, thread) in stub.threads().zip(&stub.process.threads) {
        let stub_thread = StubThread { stub, remote };
        credentials::set(&stub_thread, &thread.credentials)?;
        if thread.parent_death_signal != 0 {
            // After the credentials, because their change clears it.
            stub_thread.prctl(
                "set the signal for the parent's death",
                libc::PR_SET_PDEATHSIG,
                thread.parent_death_signal as u64,
            )?;
        }
    }
    Ok(())
}

fn scheduling(thread: &Thread) -> Result<(), Error> {
    let tid = thread.tid;
    sys::set_affinity(tid, &thread.affinity).map_err(failed(format!(
        "pin thread {tid} to its former CPUs (does this machine have them?)"
    )))?;
    sys::set_schedule(tid, thread.schedule)
        .map_err(failed(format!("set the scheduling of thread {tid}")))?;
    sys::set_nice(tid, thread.nice).map_err(failed(format!("set the nice value of thread {tid}")))
}

/// Sets what differs from what the thread has from its process.
fn further(thread: &StubThread, settings: &ThreadSettings) -> Result<(), Error> {
    let tid = thread.remote.tid();
    if observe::timer_slack_ns(tid)? != settings.timer_slack_ns {
        let slack = settings.timer_slack_ns;
        thread.prctl("set the timer slack", libc::PR_SET_TIMERSLACK, slack)?;
    }
    if settings.time_stamps != libc::PR_TSC_ENABLE as u32 {
        let value = settings.time_stamps.into();
        thread.prctl("forbid time stamps", libc::PR_SET_TSC, value)?;
    }
    if settings.memory_failure != libc::PR_MCE_KILL_DEFAULT as u32 {
        let arguments = [
            libc::PR_MCE_KILL as u64,
            libc::PR_MCE_KILL_SET as u64,
            settings.memory_failure.into(),
            0,
            0,
        ];
        thread.call(
            "choose what failed memory does",
            libc::SYS_prctl,
            &arguments,
        )?;
    }
    for (what, answer) in settings.speculation.iter().enumerate() {
        let asked = answer & !PR_SPEC_PRCTL;
        // Without this bit the thread had no choice.
        if answer & PR_SPEC_PRCTL == 0 || asked == PR_SPEC_ENABLE && what < 2 {
            continue;
        }
        let get = [PR_GET_SPECULATION_CTRL, what as u64, 0, 0, 0];
        let now = thread.remote.try_call(libc::SYS_prctl, &get)?.unwrap_or(0);
        // A processor that is not affected has nothing to set.
        if now as u32 != *answer && now as u32 & PR_SPEC_PRCTL != 0 {
            let arguments = [PR_SET_SPECULATION_CTRL, what as u64, asked.into(), 0, 0];
            thread.call("choose speculation", libc::SYS_prctl, &arguments)?;
        }
    }
    Ok(())
}

/// Sets what a thread has of its own, but for its credentials.
fn set_own(stub_thread: &StubThread, thread: &Thread) -> Result<(), Error> {
    stub_thread.call(
        "set the address that the thread's end clears",
        libc::SYS_set_tid_address,
        &[thread.clear_child_tid],
    )?;
    let list = &thread.robust_list;
    if list.address != 0 {
        stub_thread.call(
            "set the robust futexes",
            libc::SYS_set_robust_list,
            &[list.address, list.len],
        )?;
    }
    let stack = &thread.alt_stack;
    let flags = (stack.flags & !SS_ONSTACK) as u32;
    let address = stub_thread.stub.put(
        &[stack.address, flags.into(), stack.size_bytes]
            .map(u64::to_le_bytes)
            .concat(),
    )?;
    stub_thread.call("set the signal stack", libc::SYS_sigaltstack, &[address, 0])?;
    let mut name = thread.name.clone();
    name.push(0);
    let address = stub_thread.stub.put(&name)?;
    stub_thread.prctl("set the name", libc::PR_SET_NAME, address)?;
    if let Some(rseq) = &thread.rseq {
        let arguments = [
            rseq.address,
            rseq.size_bytes.into(),
            0,
            rseq.signature.into(),
        ];
        stub_thread.call("register restartable sequences", libc::SYS_rseq, &arguments)?;
    }
    for info in &thread.pending {
        let address = stub_thread.stub.put(info)?;
        let arguments = [
            stub_thread.stub.process.pid as u64,
            thread.tid as u64,
            signal_of(info),
            address,
        ];
        stub_thread.call(
            "make a signal pending",
            libc::SYS_rt_tgsigqueueinfo,
            &arguments,
        )?;
    }
    Ok(())
}

//! Threads of a process in the making.

use super::credentials;
use super::process::{set_limits, signal_of};
use super::stubs::Stub;
use crate::error::{Error, failed};
use crate::image::Thread;
use crate::inject::Remote;
use crate::sys;

const SHARE_ALL: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
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
    for (remote, thread) in stub.threads().zip(&stub.process.threads) {
        scheduling(thread)?;
        Setting { stub, remote }.set(thread)?;
    }
    set_limits(stub)?;
    for (remote, thread) in stub.threads().zip(&stub.process.threads) {
        let setting = Setting { stub, remote };
        credentials::set(&setting, &thread.credentials)?;
        if thread.parent_death_signal != 0 {
            // Behind the credentials, whose change takes it away.
            setting.prctl(
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
        "let thread {tid} run on the CPUs it had (are they here?)"
    )))?;
    sys::set_schedule(tid, thread.schedule)
        .map_err(failed(format!("set the scheduling of thread {tid}")))?;
    sys::set_nice(tid, thread.nice).map_err(failed(format!("set the nice value of thread {tid}")))
}

/// A thread that is being set up, and its process.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub stub: &'a Stub<'a>,
    pub remote: &'a Remote,
}

impl Setting<'_> {
    /// A system call of the thread.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.remote.call(op, number, arguments)
    }

    /// prctl(2) with one argument.
    pub fn prctl(&self, op: &str, option: i32, argument: u64) -> Result<u64, Error> {
        self.call(op, libc::SYS_prctl, &[option as u64, argument, 0, 0, 0])
    }

    fn set(&self, thread: &Thread) -> Result<(), Error> {
        self.call(
            "set what the thread's end clears",
            libc::SYS_set_tid_address,
            &[thread.clear_child_tid],
        )?;
        let list = &thread.robust_list;
        if list.address != 0 {
            self.call(
                "set the robust futexes",
                libc::SYS_set_robust_list,
                &[list.address, list.len],
            )?;
        }
        let stack = &thread.alt_stack;
        let flags = (stack.flags & !SS_ONSTACK) as u32;
        let address = self.stub.put(
            &[stack.address, flags.into(), stack.size_bytes]
                .map(u64::to_le_bytes)
                .concat(),
        )?;
        self.call("set the signal stack", libc::SYS_sigaltstack, &[address, 0])?;
        let mut name = thread.name.clone();
        name.push(0);
        let address = self.stub.put(&name)?;
        self.prctl("set the name", libc::PR_SET_NAME, address)?;
        if let Some(rseq) = &thread.rseq {
            let arguments = [
                rseq.address,
                rseq.size_bytes.into(),
                0,
                rseq.signature.into(),
            ];
            self.call("register restartable sequences", libc::SYS_rseq, &arguments)?;
        }
        for info in &thread.pending {
            let address = self.stub.put(info)?;
            let arguments = [
                self.stub.process.pid as u64,
                thread.tid as u64,
                signal_of(info),
                address,
            ];
            self.call(
                "make a signal pending",
                libc::SYS_rt_tgsigqueueinfo,
                &arguments,
            )?;
        }
        Ok(())
    }
}

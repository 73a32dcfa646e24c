//! State of a process as a whole.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::AsRawFd;

use super::check::path;
use super::fetch::Fetch;
use super::stubs::{Stub, signal_of};
use crate::error::{Error, failed};
use crate::image::{ItimerValue, SignalAction};
use crate::observe;
use crate::sys;

const SIGSET_BYTES: u64 = 8;
/// Since Linux 6.3.
const PR_SET_MDWE: u64 = 65;

/// Sets the state that its threads will share, while it still has all privileges.
pub fn set(stub: &Stub) -> Result<(), Error> {
    let process = stub.process;
    stub.call(
        "set the personality",
        libc::SYS_personality,
        &[process.personality.into()],
    )?;
    stub.call("set the umask", libc::SYS_umask, &[process.umask.into()])?;
    set_directories(stub)?;
    let ignored = observe::status(process.pid, process.pid)?.ignored;
    for (index, action) in process.actions.iter().enumerate() {
        let signal = index as i32 + 1;
        if [libc::SIGKILL, libc::SIGSTOP].contains(&signal) {
            continue;
        }
        // A stub handles no signals, but it ignores those that this process ignores.
        if *action == SignalAction::default() && ignored & 1 << index == 0 {
            continue;
        }
        let numbers = [action.handler, action.flags, action.restorer, action.mask];
        let address = stub.put(&numbers.map(u64::to_le_bytes).concat())?;
        stub.call(
            "set a signal's action",
            libc::SYS_rt_sigaction,
            &[signal as u64, address, 0, SIGSET_BYTES],
        )?;
    }
    let score = format!("/proc/{}/oom_score_adj", process.pid);
    let now = std::fs::read_to_string(&score).map_err(failed(format!("read {score}")))?;
    if now.trim() != process.oom_score_adj.to_string() {
        std::fs::write(&score, process.oom_score_adj.to_string())
            .map_err(failed(format!("write {score}")))?;
    }
    if let Some(filter) = stub.settings.and_then(|settings| settings.core_filter) {
        let file = format!("/proc/{}/coredump_filter", process.pid);
        let now = observe::core_filter(process.pid)?;
        if now != Some(filter) {
            let value = format!("{filter:#x}");
            std::fs::write(&file, value).map_err(failed(format!("write {file}")))?;
        }
    }
    if process.subreaper {
        let arguments = [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0];
        stub.call("make it adopt orphans", libc::SYS_prctl, &arguments)?;
    }
    Ok(())
}

/// Sets the root directory and the working directory.
fn set_directories(stub: &Stub) -> Result<(), Error> {
    if let Some(confined) = stub.confined
        && confined.root != b"/"
    {
        go_to(stub, &confined.root)?;
        let here = stub.put(b".\0")?;
        stub.call("set the root directory", libc::SYS_chroot, &[here])?;
    }
    go_to(stub, &stub.process.directory)
}

fn go_to(stub: &Stub, name: &[u8]) -> Result<(), Error> {
    let name = path(name);
    let directory = open(
        &name,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let directory = directory.map_err(failed(format!("open {}", name.display())))?;
    let above = stub
        .process
        .descriptors
        .last()
        .map_or(0, |last| last.fd + 1);
    let fetch = Fetch::new(&stub.blank, above)?;
    let fd = fetch.get(&stub.blank, directory.as_raw_fd())?;
    stub.call("set the working directory", libc::SYS_fchdir, &[fd])?;
    stub.call("close a descriptor", libc::SYS_close, &[fd])?;
    fetch.end(&stub.blank)
}

/// Sets what must come last: signals, and timers, which run from then on.
pub fn set_last(stub: &Stub) -> Result<(), Error> {
    let process = stub.process;
    // PR_SET_DUMPABLE takes no other values; 2 comes from a change of identity.
    if process.dumpable <= 1 {
        let arguments = [
            libc::PR_SET_DUMPABLE as u64,
            process.dumpable.into(),
            0,
            0,
            0,
        ];
        stub.call("set the dumpable flag", libc::SYS_prctl, &arguments)?;
    }
    let denied = stub
        .settings
        .map_or(0, |settings| settings.deny_write_execute);
    if denied != 0 {
        let arguments = [PR_SET_MDWE, denied.into(), 0, 0, 0];
        stub.call("deny memory to write and run", libc::SYS_prctl, &arguments)?;
    }
    for info in &process.pending {
        let signal = signal_of(info);
        let address = stub.put(info)?;
        let arguments = [process.pid as u64, signal, address];
        stub.call(
            "make a signal pending",
            libc::SYS_rt_sigqueueinfo,
            &arguments,
        )?;
    }
    for (which, timer) in process
        .itimers
        .iter()
        .enumerate()
        .filter(|(_, timer)| **timer != ItimerValue::default())
    {
        // A timer whose signal is pending is not running. The kernel starts it again when the
        // signal is taken, but only if it has run in this process before.
        let (value_s, value_us) = match (timer.value_s, timer.value_us) {
            (0, 0) => (timer.interval_s, timer.interval_us),
            running => running,
        };
        let numbers = [timer.interval_s, timer.interval_us, value_s, value_us];
        let address = stub.put(&numbers.map(i64::to_le_bytes).concat())?;
        stub.call(
            "set a timer",
            libc::SYS_setitimer,
            &[which as u64, address, 0],
        )?;
    }
    Ok(())
}

/// Sets the limits that differ: lowering them is always allowed.
pub fn set_limits(stub: &Stub) -> Result<(), Error> {
    let process = stub.process;
    for (resource, limit) in process.limits.iter().enumerate() {
        let resource = resource as u32;
        if sys::limit(process.pid, resource).map_err(failed("read a resource limit"))? != *limit {
            let set = sys::set_limit(process.pid, resource, limit.0, limit.1);
            set.map_err(failed(format!(
                "set resource limit {resource} to {} and {}",
                limit.0, limit.1
            )))?;
        }
    }
    Ok(())
}

//! A process that has nothing yet. It stands still and makes system calls for us.

use super::numbers;
use super::workspace::Workspace;
use crate::arch::TASK_END;
use crate::error::{Error, failed};
use crate::inject::{Memory, Remote};
use crate::observe;
use crate::sys::{self, Options, Stop, Waited};

const RSEQ_FLAG_UNREGISTER: u64 = 1;

/// A process that has a vDSO, room to work in, and nothing else.
#[derive(Debug)]
pub struct Blank {
    /// Its only thread.
    pub leader: Remote,
    /// Its memory.
    pub memory: Memory,
    /// Its workspace.
    pub workspace: Workspace,
    /// Start and length of the vDSO's parts, where they are now.
    pub vdso: Vec<(u64, u64)>,
}

impl Blank {
    /// Empties a copy of this process that waits and is not traced yet. After an error the caller
    /// must kill the copy.
    pub fn of_copy(pid: i32, workspace: Workspace) -> Result<Self, Error> {
        stop(pid)?;
        // A copy of this process has its vDSO at the same place.
        let own = observe::mappings(pid)?;
        let vdso =
            observe::find_vdso(pid, &own)?.ok_or(Error::BadImage("this kernel has no vDSO"))?;
        let mut leader = Remote::new(pid, vdso.syscall_at)?;
        if let Some(area) = sys::rseq_area(pid).map_err(failed(format!("trace process {pid}")))? {
            // The kernel would kill the process when the area is unmapped.
            let arguments = [
                area.address,
                area.size_bytes.into(),
                RSEQ_FLAG_UNREGISTER,
                area.signature.into(),
            ];
            leader.call("end restartable sequences", libc::SYS_rseq, &arguments)?;
        }
        let memory = Memory::open(pid)?;
        workspace.make(&mut leader, &memory)?;
        let blank = Self {
            leader,
            memory,
            workspace,
            vdso: vdso.parts.clone(),
        };
        blank.keep(Vec::new())?;
        blank.call(
            "close files",
            libc::SYS_close_range,
            &[0, u32::MAX.into(), 0],
        )?;
        Ok(blank)
    }

    /// Makes a system call.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.leader.call(op, number, arguments)
    }

    /// Puts bytes where a system call can read them. Returns their address.
    pub fn put(&self, bytes: &[u8]) -> Result<u64, Error> {
        self.workspace.put(&self.memory, bytes)
    }

    /// Makes a thread or process with this number by clone3(2); it stands still, ready to make
    /// calls.
    pub fn clone_with(&self, tid: i32, flags: u64, exit_signal: i32) -> Result<Remote, Error> {
        // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size,
        // tls, set_tid, set_tid_size, cgroup. Behind it the number itself.
        let mut request = [0u64; 12];
        let bytes = (size_of_val(&request) - 8) as u64;
        request[0] = flags;
        request[4] = exit_signal as u64;
        request[8] = self.workspace.arguments() + bytes;
        request[9] = 1;
        request[11] = tid as u64;
        let address = self.put(&request.map(u64::to_le_bytes).concat())?;
        numbers::make_with(tid, || {
            self.leader.try_call(libc::SYS_clone3, &[address, bytes])
        })?;
        wait_trap(tid)?;
        Remote::new(tid, self.workspace.start())
    }

    /// Unmaps everything but these addresses, the workspace and the vDSO.
    pub fn keep(&self, mut keep: Vec<(u64, u64)>) -> Result<(), Error> {
        keep.push((self.workspace.start(), self.workspace.end()));
        keep.extend(self.vdso.iter().map(|(start, len)| (*start, start + len)));
        keep.sort_unstable();
        keep.push((TASK_END, TASK_END));
        let mut from = 0;
        for (start, end) in keep {
            if from < start {
                self.call("unmap memory", libc::SYS_munmap, &[from, start - from])?;
            }
            from = end;
        }
        Ok(())
    }
}

/// Traces a process, and stops it.
pub fn stop(pid: i32) -> Result<(), Error> {
    let doing = || failed(format!("trace process {pid}"));
    sys::seize(pid, Options::Restart).map_err(doing())?;
    sys::interrupt(pid).map_err(doing())?;
    wait_trap(pid)
}

/// Kills a child and waits for its end.
pub fn end(pid: i32) {
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = reap(pid);
}

/// Waits for the end of a child that was killed.
pub fn reap(tid: i32) -> std::io::Result<()> {
    while let Waited::Stopped(_) = sys::wait_stop(tid)? {
        sys::continue_with(tid, 0)?;
    }
    Ok(())
}

/// Waits for the first stop of what was just seized or cloned.
fn wait_trap(tid: i32) -> Result<(), Error> {
    loop {
        match sys::wait_stop(tid).map_err(failed("wait for a thread"))? {
            Waited::Stopped(Stop::Trap { .. }) => return Ok(()),
            Waited::Stopped(_) => {
                sys::continue_with(tid, 0).map_err(failed(format!("trace thread {tid}")))?
            }
            Waited::Runs => {}
            Waited::Ended => return Err(Error::Gone(tid)),
        }
    }
}

//! Processes in the making: stubs with the right numbers and parents, stopped, that make system calls for us.

use crate::error::{Error, Place, Refusal, failed};
use crate::image::{Image, Process};
use crate::inject::{Memory, Remote};
use crate::observe;
use crate::sys::{self, Options, Stop, Waited};

use super::workspace::Workspace;

/// The end of what a process can map (with four-level page tables).
const TASK_END: u64 = 0x7fff_ffff_f000;
const RSEQ_FLAG_UNREGISTER: u64 = 1;

/// A process in the making.
#[derive(Debug)]
pub struct Stub<'a> {
    /// What it shall be.
    pub process: &'a Process,
    /// Its threads so far, the leader first.
    pub threads: Vec<Remote>,
    /// Its memory.
    pub memory: Memory,
    /// Where it has room to work in.
    pub workspace: Workspace,
    /// Start and length of the vDSO's parts, where they are now.
    pub vdso: Vec<(u64, u64)>,
}

impl Stub<'_> {
    /// The leader.
    pub fn leader(&self) -> &Remote {
        &self.threads[0]
    }

    /// A system call of the leader.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.leader().call(op, number, arguments)
    }

    /// Puts bytes where a system call can read them; the address.
    pub fn put(&self, bytes: &[u8]) -> Result<u64, Error> {
        self.workspace.put(&self.memory, bytes)
    }

    /// Makes a thread or process with this number by clone3(2); it stands still, ready to make calls.
    pub fn clone_with(&self, tid: i32, flags: u64, exit_signal: i32) -> Result<Remote, Error> {
        // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        // set_tid_size, cgroup. Behind it the number itself.
        let mut request = [0u64; 12];
        let bytes = (size_of_val(&request) - 8) as u64;
        request[0] = flags;
        request[4] = exit_signal as u64;
        request[8] = self.workspace.arguments() + bytes;
        request[9] = 1;
        request[11] = tid as u64;
        let address = self.put(&request.map(u64::to_le_bytes).concat())?;
        self.leader()
            .try_call(libc::SYS_clone3, &[address, bytes])?
            .map_err(|error| not_made(tid, error))?;
        wait_trap(tid)?;
        Remote::new(tid, self.workspace.start())
    }
}

/// All processes of an image in the making. Dropped, it kills them.
#[derive(Debug)]
pub struct Nursery<'a> {
    image: &'a Image,
    stubs: Vec<Stub<'a>>,
}

impl<'a> Nursery<'a> {
    /// Makes the stubs of all processes.
    pub fn new(image: &'a Image) -> Result<Self, Error> {
        let workspace = Workspace::choose(image)?;
        let mut nursery = Self {
            image,
            stubs: Vec::new(),
        };
        nursery.add_root(&image.processes[0], workspace)?;
        for process in &image.processes[1..] {
            let parent = &nursery.stubs[process.parent.unwrap_or(0) as usize];
            let remote = parent.clone_with(process.pid, 0, libc::SIGCHLD)?;
            let vdso = parent.vdso.clone();
            nursery.add(Stub {
                process,
                threads: vec![remote],
                memory: Memory::open(process.pid)?,
                workspace,
                vdso,
            })?;
        }
        Ok(nursery)
    }

    fn add(&mut self, stub: Stub<'a>) -> Result<(), Error> {
        self.stubs.push(stub);
        let stub = &self.stubs[self.stubs.len() - 1];
        // Before it has children: they shall be in its session.
        if stub.process.session == stub.process.pid {
            stub.call("make a session", libc::SYS_setsid, &[])?;
        }
        Ok(())
    }

    fn add_root(&mut self, process: &'a Process, workspace: Workspace) -> Result<(), Error> {
        let pid = process.pid;
        sys::clone_stub(pid).map_err(|error| not_made(pid, error))?;
        let made = self.take_root(process, workspace);
        if made.is_err() && self.stubs.is_empty() {
            let _ = sys::kill(pid, libc::SIGKILL);
            let _ = reap(pid);
        }
        made
    }

    fn take_root(&mut self, process: &'a Process, workspace: Workspace) -> Result<(), Error> {
        let pid = process.pid;
        let doing = || failed(format!("trace process {pid}"));
        sys::seize(pid, Options::Restart).map_err(doing())?;
        sys::interrupt(pid).map_err(doing())?;
        wait_trap(pid)?;
        // It is a copy of this process: so its vDSO is where ours is.
        let own = observe::mappings(pid)?;
        let vdso = observe::find_vdso(pid, &own)?.ok_or(Error::BadImage("this kernel has no vDSO"))?;
        let mut remote = Remote::new(pid, vdso.syscall_at)?;
        if let Some(area) = sys::rseq_area(pid).map_err(doing())? {
            // It would be killed when the area is unmapped.
            let arguments = [
                area.address,
                area.size_bytes.into(),
                RSEQ_FLAG_UNREGISTER,
                area.signature.into(),
            ];
            remote.call("end restartable sequences", libc::SYS_rseq, &arguments)?;
        }
        let memory = Memory::open(pid)?;
        workspace.make(&mut remote, &memory)?;
        let stub = Stub {
            process,
            threads: vec![remote],
            memory,
            workspace,
            vdso: vdso.parts.clone(),
        };
        unmap_all_but(
            &stub,
            &[
                (workspace.start(), workspace.end()),
                (vdso.start(), vdso.start() + vdso.size_bytes()),
            ],
        )?;
        stub.call("close files", libc::SYS_close_range, &[0, u32::MAX.into(), 0])?;
        self.add(stub)
    }

    /// The processes, parents before their children.
    pub fn stubs(&mut self) -> &mut [Stub<'a>] {
        &mut self.stubs
    }

    /// Refuses an image whose extended registers this processor and kernel do not have in the same form.
    pub fn check_processor(&self) -> Result<(), Error> {
        let pid = self.image.processes[0].pid;
        let here = sys::xstate(pid).map_err(failed("read extended registers"))?;
        let features = crate::capture::xfeatures(&here);
        let same_size = self.image.processes.iter().flat_map(|process| &process.threads);
        if features == self.image.xfeatures
            && same_size
                .into_iter()
                .all(|thread| thread.xstate.len() == here.len())
        {
            return Ok(());
        }
        let reason = format!(
            "has extended registers {:#x}, this machine {features:#x}",
            self.image.xfeatures
        );
        Err(Error::Refused(vec![Refusal {
            pid,
            place: Place::Process,
            reason,
        }]))
    }

    /// Puts the processes into their groups.
    pub fn set_groups(&self) -> Result<(), Error> {
        let is_ours = |number: i32| self.stubs.iter().any(|stub| stub.process.pid == number);
        let grouped = self.stubs.iter().filter(|stub| is_ours(stub.process.group));
        // A group must exist before others can join.
        let (leaders, members): (Vec<_>, Vec<_>) =
            grouped.partition(|stub| stub.process.group == stub.process.pid);
        for stub in leaders.into_iter().chain(members) {
            // A session's leader leads a group already, and may not be moved.
            if stub.process.session != stub.process.pid {
                stub.call(
                    "set the process group",
                    libc::SYS_setpgid,
                    &[0, stub.process.group as u64],
                )?;
            }
        }
        for stub in self.stubs.iter().filter(|stub| is_ours(stub.process.session)) {
            let (process, session) = (stub.process, stub.process.session);
            if observe::status(process.pid, process.pid)?.session != session {
                let reason = format!("is in the session of {session}, which it did not get from its parents");
                return Err(Error::Refused(vec![Refusal {
                    pid: process.pid,
                    place: Place::Process,
                    reason,
                }]));
            }
        }
        Ok(())
    }

    /// Lets all of them go.
    pub fn release(mut self) -> Result<(), Error> {
        for stub in &self.stubs {
            let (start, len) = (stub.workspace.start(), Workspace::SIZE_BYTES);
            stub.call("unmap the region", libc::SYS_munmap, &[start, len])?;
            for (remote, thread) in stub.threads.iter().zip(&stub.process.threads) {
                sys::set_xstate(thread.tid, &thread.xstate).map_err(failed("set extended registers"))?;
                remote.park(&thread.registers, thread.signal_mask)?;
            }
        }
        for stub in std::mem::take(&mut self.stubs) {
            for remote in &stub.threads {
                sys::detach(remote.tid()).map_err(failed(format!("let thread {} go", remote.tid())))?;
            }
        }
        Ok(())
    }
}

impl Drop for Nursery<'_> {
    fn drop(&mut self) {
        for stub in &self.stubs {
            let _ = sys::kill(stub.process.pid, libc::SIGKILL);
        }
        // Children first; a leader is not gone before its threads are.
        for remote in self.stubs.iter().rev().flat_map(|stub| stub.threads.iter().rev()) {
            let _ = reap(remote.tid());
        }
    }
}

fn unmap_all_but(stub: &Stub, keep: &[(u64, u64)]) -> Result<(), Error> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    keep.push((TASK_END, TASK_END));
    let mut from = 0;
    for (start, end) in keep {
        if from < start {
            stub.call("unmap memory", libc::SYS_munmap, &[from, start - from])?;
        }
        from = end;
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

fn reap(tid: i32) -> std::io::Result<()> {
    while let Waited::Stopped(_) = sys::wait_stop(tid)? {
        sys::continue_with(tid, 0)?;
    }
    Ok(())
}

fn not_made(tid: i32, source: std::io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EEXIST) => {
            let reason = "cannot have its number back: it is in use".into();
            Error::Refused(vec![Refusal {
                pid: tid,
                place: Place::Process,
                reason,
            }])
        }
        _ => failed(format!("make a process or thread with the number {tid}"))(source),
    }
}

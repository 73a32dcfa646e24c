//! Stubs: stopped processes with the right numbers and parents that make system calls for us, until
//! they have become the processes of an image.

use crate::arch::xfeatures;
use crate::error::{Error, ProcessPart, Refusal, failed};
use crate::image::{Confined, Ended, Image, Process, Settings};
use crate::inject::{Memory, Remote};
use crate::observe;
use crate::sys;

use super::blank::{self, Blank};
use super::groups::{self, GoneLeader};
use super::reserve::{Frames, Reserve};
use super::terminals::Terminals;
use super::workspace::Workspace;
use super::{ended, numbers};

const SIGSET_BYTES: u64 = 8;

/// The number of the signal that a siginfo_t is about.
pub fn signal_of(info: &[u8]) -> u64 {
    info.first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes).into())
}

/// A process that is being made.
#[derive(Debug)]
pub struct Stub<'a> {
    /// The process of the image that it becomes.
    pub process: &'a Process,
    /// Further settings of that process; an older image has none.
    pub settings: Option<&'a Settings>,
    /// Its confinement; an older image has none.
    pub confined: Option<&'a Confined>,
    /// The process that it is so far.
    pub blank: Blank,
    /// Its threads but the leader.
    pub others: Vec<Remote>,
    /// Memory of a reserve.
    pub frames: Option<Frames>,
}

impl Stub<'_> {
    /// Its threads so far, the leader first.
    pub fn threads(&self) -> impl DoubleEndedIterator<Item = &Remote> {
        std::iter::once(&self.blank.leader).chain(&self.others)
    }

    /// The leader.
    pub fn leader(&self) -> &Remote {
        &self.blank.leader
    }

    /// Makes a system call in the leader.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.blank.call(op, number, arguments)
    }

    /// Puts bytes where a system call can read them. Returns their address.
    pub fn put(&self, bytes: &[u8]) -> Result<u64, Error> {
        self.blank.put(bytes)
    }

    /// Allows it as many descriptors as it can have. Its limits are set later.
    pub fn raise_descriptor_limit(&self) -> Result<(), Error> {
        let pid = self.process.pid;
        let (_, hard) =
            sys::limit(pid, libc::RLIMIT_NOFILE).map_err(failed("read a resource limit"))?;
        sys::set_limit(pid, libc::RLIMIT_NOFILE, hard, hard).map_err(failed("set a resource limit"))
    }
}

/// A thread of a stub.
#[derive(Clone, Copy, Debug)]
pub struct StubThread<'a> {
    pub stub: &'a Stub<'a>,
    pub remote: &'a Remote,
}

impl StubThread<'_> {
    /// Makes a system call in the thread.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.remote.call(op, number, arguments)
    }

    /// Calls prctl(2) with one argument.
    pub fn prctl(&self, op: &str, option: i32, argument: u64) -> Result<u64, Error> {
        self.call(op, libc::SYS_prctl, &[option as u64, argument, 0, 0, 0])
    }
}

/// Stubs for all processes of an image. When dropped, it kills them.
#[derive(Debug)]
pub struct Stubs<'a> {
    image: &'a Image,
    stubs: Vec<Stub<'a>>,
    terminals: &'a Terminals<'a>,
    /// Children that are to end before the others run.
    ending: Vec<(&'a Ended, Blank)>,
    /// Leaders of groups that had ended, and that nobody waits for.
    leaders: Vec<(GoneLeader, Blank)>,
}

impl<'a> Stubs<'a> {
    /// Makes the stub of the first process. It gets the reserve's memory, if there is a reserve
    /// whose addresses are free.
    pub fn new(
        image: &'a Image,
        terminals: &'a Terminals<'a>,
        reserve: Option<Reserve>,
    ) -> Result<Self, Error> {
        let mut all = Self {
            image,
            stubs: Vec::new(),
            terminals,
            ending: Vec::new(),
            leaders: Vec::new(),
        };
        let first = &image.processes[0];
        let reserve = reserve.filter(|reserve| reserve.fits(image));
        let ready = reserve
            .map(|reserve| reserve.into_process(first.pid))
            .transpose()?;
        match ready.flatten() {
            Some((blank, frames)) => all.add(first, blank, Some(frames))?,
            None => all.add_copy(first, Workspace::choose(Some(image), 0)?)?,
        }
        all.check_processor()?;
        Ok(all)
    }

    /// The stub of a process, by its index. It is forked from its parent unless it is there. The
    /// stubs of all processes before it are there.
    pub fn make(&mut self, index: usize) -> Result<&mut Stub<'a>, Error> {
        let process = &self.image.processes[index];
        if index == self.stubs.len() {
            let settings = self.image.settings.get(index);
            let exit_signal = settings.map_or(libc::SIGCHLD, |settings| settings.exit_signal);
            let parent = process.parent.unwrap_or(0);
            let blank = self.child_of(parent, process.pid, exit_signal)?;
            self.add(process, blank, None)?;
        }
        Ok(&mut self.stubs[index])
    }

    /// Makes the children that had ended; they are yet to end.
    pub fn make_ended(&mut self) -> Result<(), Error> {
        for child in &self.image.ended {
            let blank = self.child_of(child.parent, child.pid, child.exit_signal)?;
            if child.session == child.pid {
                blank.call("make a session", libc::SYS_setsid, &[])?;
            }
            self.ending.push((child, blank));
        }
        Ok(())
    }

    fn child_of(&self, parent: u32, pid: i32, exit_signal: i32) -> Result<Blank, Error> {
        let parent = &self.stubs[parent as usize].blank;
        Ok(Blank {
            leader: parent.clone_with(pid, 0, exit_signal)?,
            memory: Memory::open(pid)?,
            workspace: parent.workspace,
            vdso: parent.vdso.clone(),
        })
    }

    fn add(
        &mut self,
        process: &'a Process,
        blank: Blank,
        frames: Option<Frames>,
    ) -> Result<(), Error> {
        self.stubs.push(Stub {
            process,
            settings: self.image.settings.get(self.stubs.len()),
            confined: self.image.confined.get(self.stubs.len()),
            blank,
            others: Vec::new(),
            frames,
        });
        let stub = &self.stubs[self.stubs.len() - 1];
        // Before it has children, so that they are in its session.
        if process.session == process.pid {
            stub.call("make a session", libc::SYS_setsid, &[])?;
            self.terminals.control(&stub.blank, process.pid)?;
        }
        Ok(())
    }

    fn add_copy(&mut self, process: &'a Process, workspace: Workspace) -> Result<(), Error> {
        let pid = process.pid;
        numbers::make_with(pid, || Ok(sys::clone_stub(Some(pid))))?;
        let blank = Blank::of_copy(pid, workspace).inspect_err(|_| blank::end(pid))?;
        self.add(process, blank, None)
    }

    /// The processes, parents before their children.
    pub fn all(&mut self) -> &mut [Stub<'a>] {
        &mut self.stubs
    }

    /// Refuses an image whose extended registers this processor and kernel do not have in the same
    /// form.
    fn check_processor(&self) -> Result<(), Error> {
        let pid = self.image.processes[0].pid;
        let here = sys::xstate(pid).map_err(failed("read extended registers"))?;
        let features = xfeatures(&here);
        let same_size = self
            .image
            .processes
            .iter()
            .flat_map(|process| &process.threads);
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
        let refusal = Refusal::new(pid, ProcessPart::Process, reason);
        Err(Error::Refused(vec![refusal]))
    }

    /// Puts the processes into their groups.
    pub fn set_groups(&mut self) -> Result<(), Error> {
        for leader in groups::gone_leaders(self.image) {
            let blank = self.child_of(leader.parent, leader.pid, 0)?;
            self.leaders.push((leader, blank));
        }
        let running = self.stubs.iter().map(|stub| {
            let process = stub.process;
            (&stub.blank, process.pid, process.group, process.session)
        });
        let ending = self.ending.iter();
        let ending = ending.map(|(child, blank)| (blank, child.pid, child.group, child.session));
        let gone = self.leaders.iter();
        let gone = gone.map(|(leader, blank)| (blank, leader.pid, leader.pid, leader.session));
        let all: Vec<_> = running.chain(ending).chain(gone).collect();
        let is_ours = |number: i32| all.iter().any(|(_, pid, _, _)| *pid == number);
        let grouped = all.iter().filter(|(_, _, group, _)| is_ours(*group));
        // A group must exist before others can join.
        let (leaders, members): (Vec<_>, Vec<_>) =
            grouped.partition(|(_, pid, group, _)| group == pid);
        for (blank, pid, group, session) in leaders.into_iter().chain(members) {
            // The leader of a session leads a group already, and may not be moved.
            if session != pid {
                let arguments = [0, group as u64];
                blank.call("set the process group", libc::SYS_setpgid, &arguments)?;
            }
        }
        for stub in self
            .stubs
            .iter()
            .filter(|stub| is_ours(stub.process.session))
        {
            let (process, session) = (stub.process, stub.process.session);
            if observe::status(process.pid, process.pid)?.session != session {
                let reason = format!(
                    "is in the session of {session}, which it did not inherit from its parents"
                );
                let refusal = Refusal::new(process.pid, ProcessPart::Process, reason);
                return Err(Error::Refused(vec![refusal]));
            }
        }
        Ok(())
    }

    /// Lets the leaders of groups end that had ended. Nobody notices.
    pub fn end_leaders(&mut self) -> Result<(), Error> {
        for (leader, _) in self.leaders.drain(..) {
            blank::end(leader.pid);
            let parent = &self.stubs[leader.parent as usize];
            let arguments = [leader.pid as u64, 0, libc::__WALL as u64, 0];
            parent.call(
                "wait for the leader of a group",
                libc::SYS_wait4,
                &arguments,
            )?;
        }
        Ok(())
    }

    /// Lets the children end that had ended. Their parents have no signals from them pending: those
    /// that are in the image are made pending later.
    pub fn end_children(&mut self) -> Result<(), Error> {
        for (child, blank) in self.ending.drain(..) {
            let parent = &self.stubs[child.parent as usize];
            // Else the kernel would wait for the child itself.
            let action = parent.put(&[0; 32])?;
            let arguments = [libc::SIGCHLD as u64, action, 0, SIGSET_BYTES];
            parent.call("have children kept", libc::SYS_rt_sigaction, &arguments)?;
            ended::end(child, &blank).inspect_err(|_| blank::end(child.pid))?;
            ended::forget_signal(&parent.blank, child.exit_signal)?;
        }
        Ok(())
    }

    /// Stops those that were stopped. They make system calls all the same, and stay stopped when
    /// they are released. Each has one thread so far, as all threads must stop.
    pub fn stop(&self) -> Result<(), Error> {
        for stub in &self.stubs {
            if !stub.settings.is_some_and(|settings| settings.is_stopped) {
                continue;
            }
            ended::stop(&stub.blank)?;
            let Some(parent) = stub.process.parent else {
                continue;
            };
            let parent = &self.stubs[parent as usize];
            ended::forget_signal(&parent.blank, libc::SIGCHLD)?;
            // A parent that has yet to hear of it has yet to see it, too.
            let mut pending = parent.process.pending.iter();
            if pending.all(|info| signal_of(info) != libc::SIGCHLD as u64) {
                let how = (libc::WUNTRACED | libc::WNOHANG | libc::__WALL) as u64;
                let arguments = [stub.process.pid as u64, 0, how, 0];
                parent.call("see that a child stopped", libc::SYS_wait4, &arguments)?;
            }
        }
        Ok(())
    }

    /// Releases all of them: the processes run.
    pub fn release(mut self) -> Result<(), Error> {
        for stub in &self.stubs {
            let (start, len) = (stub.blank.workspace.start(), Workspace::SIZE_BYTES);
            stub.call("unmap the region", libc::SYS_munmap, &[start, len])?;
            for (remote, thread) in stub.threads().zip(&stub.process.threads) {
                sys::set_xstate(thread.tid, &thread.xstate)
                    .map_err(failed("set extended registers"))?;
                remote.park(&thread.registers, thread.signal_mask)?;
            }
        }
        for stub in std::mem::take(&mut self.stubs) {
            for remote in stub.threads() {
                sys::detach(remote.tid())
                    .map_err(failed(format!("release thread {}", remote.tid())))?;
            }
        }
        Ok(())
    }
}

impl Drop for Stubs<'_> {
    fn drop(&mut self) {
        let ending = self.ending.iter().map(|(child, _)| child.pid);
        let leaders = self.leaders.iter().map(|(leader, _)| leader.pid);
        ending.chain(leaders).for_each(blank::end);
        for stub in &self.stubs {
            let _ = sys::kill(stub.process.pid, libc::SIGKILL);
        }
        // Children first. A leader ends after its threads.
        for remote in self
            .stubs
            .iter()
            .rev()
            .flat_map(|stub| stub.threads().rev())
        {
            let _ = blank::reap(remote.tid());
        }
    }
}

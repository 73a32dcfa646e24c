//! Stops every thread of a process, or of a process and its descendants, and releases them again.

mod critical;

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::arch::Registers;
use crate::error::{Error, Pid, ProcessPart, Refusal, failed};
use crate::observe;
use crate::sys::{self, Options, Stop, Waited};

/// The longest time that a thread may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The fate of a process when its freeze ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezeEnd {
    /// The process continues.
    Thaw,
    /// The process stays stopped, as by SIGSTOP.
    Stop,
    /// The process is killed.
    Kill,
}

/// Processes that stand still. When dropped, it lets them continue. A tracer is a thread, so this
/// stays on the thread that made it.
#[derive(Debug)]
pub struct Frozen {
    processes: Vec<FrozenProcess>,
    since: Instant,
    ended: bool,
    _on_one_thread: PhantomData<*const ()>,
}

/// A process that stands still.
#[derive(Debug)]
pub struct FrozenProcess {
    /// Its number.
    pub pid: Pid,
    /// Its threads, the leader first.
    pub threads: Vec<FrozenThread>,
}

/// A thread that stands still.
#[derive(Debug)]
pub struct FrozenThread {
    /// Its number.
    pub tid: Pid,
    /// The registers with which it continues.
    pub registers: Registers,
    /// The signals it has blocked.
    pub signal_mask: u64,
    /// True if a signal had stopped it before.
    pub group_stopped: bool,
}

impl Frozen {
    /// Freezes a process; with `tree` its descendants too.
    pub fn new(pid: Pid, tree: bool) -> Result<Self, Error> {
        let mut frozen = Self {
            processes: Vec::new(),
            since: Instant::now(),
            ended: false,
            _on_one_thread: PhantomData,
        };
        frozen.add(pid)?;
        // The processes in the list can make no more children, so one pass over the growing list
        // finds all of them.
        let mut next = 0;
        while tree && next < frozen.processes.len() {
            for child in observe::children(frozen.processes[next].pid)? {
                // A child that ended already is dealt with by the check of the tree.
                if !observe::is_zombie(child)? {
                    frozen.add(child)?;
                }
            }
            next += 1;
        }
        Ok(frozen)
    }

    /// The frozen processes, parents before their children.
    pub fn processes(&self) -> &[FrozenProcess] {
        &self.processes
    }

    /// Time since the first of its threads stood still.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    fn add(&mut self, pid: Pid) -> Result<(), Error> {
        self.processes.push(FrozenProcess {
            pid,
            threads: Vec::new(),
        });
        let process = self.processes.last_mut().expect("just pushed");
        // A thread that still runs may start another one. So this repeats until there is no new
        // one.
        loop {
            let fresh: Vec<Pid> = (observe::threads(pid)?.into_iter())
                .filter(|tid| process.threads.iter().all(|known| known.tid != *tid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for tid in fresh {
                if process.freeze_thread(tid)? {
                    continue;
                }
                if tid == pid {
                    return Err(Error::Gone(pid));
                }
            }
        }
        process
            .threads
            .sort_by_key(|thread| (thread.tid != pid, thread.tid));
        Ok(())
    }

    /// Ends the freeze.
    pub fn end(mut self, afterwards: FreezeEnd) -> Result<(), Error> {
        self.release(afterwards)
    }

    fn release(&mut self, afterwards: FreezeEnd) -> Result<(), Error> {
        self.ended = true;
        let mut outcome = Ok(());
        let mut send = |pid: Pid, signal: i32| {
            let sent = sys::kill(pid, signal).map_err(failed(format!("signal process {pid}")));
            outcome = std::mem::replace(&mut outcome, Ok(())).and(sent);
        };
        // Children first, so that no running parent finds a child stopped.
        for process in self.processes.iter().rev() {
            if afterwards != FreezeEnd::Thaw {
                send(process.pid, libc::SIGSTOP);
            }
            for thread in &process.threads {
                // A thread that died is released already.
                let _ = sys::detach(thread.tid);
            }
            // Not before the release: a thread that dies while it is traced stays until its tracer
            // has waited for it.
            if afterwards == FreezeEnd::Kill {
                send(process.pid, libc::SIGKILL);
            }
        }
        outcome
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.release(FreezeEnd::Thaw);
        }
    }
}

impl FrozenProcess {
    /// True if a signal had stopped it as a whole.
    pub fn is_stopped(&self) -> bool {
        self.threads.iter().all(|thread| thread.group_stopped)
    }

    /// Returns false if the thread ended meanwhile.
    fn freeze_thread(&mut self, tid: Pid) -> Result<bool, Error> {
        if let Err(error) = sys::seize(tid, Options::Capture) {
            if error.raw_os_error() == Some(libc::ESRCH) {
                return Ok(false);
            }
            let status = match observe::status(self.pid, tid) {
                Err(Error::Gone(_)) => return Ok(false),
                other => other?,
            };
            return match status.tracer {
                // A thread that has ended and is still listed cannot be traced, either.
                0 if ['Z', 'X'].contains(&status.state) => Ok(false),
                0 => Err(failed(format!("trace thread {tid}"))(error)),
                tracer => {
                    let reason = format!("is traced by process {}", observe::named(tracer));
                    let part = ProcessPart::Thread(tid);
                    let refusal = Refusal::new(self.pid, part, reason);
                    Err(Error::Refused(vec![refusal]))
                }
            };
        }
        // In the list from now on, so that it is released in any case.
        let fresh = FrozenThread {
            tid,
            registers: Registers::default(),
            signal_mask: 0,
            group_stopped: false,
        };
        self.threads.push(fresh);
        let thread = self.threads.last_mut().expect("just pushed");
        if sys::interrupt(tid).is_err() || !thread.wait_stopped(self.pid)? {
            self.threads.pop();
            return Ok(false);
        }
        thread.read(self.pid)?;
        Ok(true)
    }
}

impl FrozenThread {
    fn read(&mut self, pid: Pid) -> Result<(), Error> {
        let doing = || failed(format!("read the state of thread {}", self.tid));
        self.registers = sys::registers(self.tid).map_err(doing())?;
        if let Some(abort) = critical::abort_address(pid, self.tid, &self.registers)? {
            self.registers.set_instruction(abort);
            sys::set_registers(self.tid, &self.registers).map_err(doing())?;
        }
        self.signal_mask = sys::signal_mask(self.tid).map_err(doing())?;
        Ok(())
    }

    /// Waits until an interrupted thread is in its trap. Signals that it meets on the way are given
    /// to it. False: it ended.
    fn wait_stopped(&mut self, pid: Pid) -> Result<bool, Error> {
        let tid = self.tid;
        let began = Instant::now();
        let doing = || failed(format!("stop thread {tid}"));
        loop {
            match sys::poll_stop(tid).map_err(doing())? {
                Waited::Stopped(Stop::Trap { signal }) => {
                    self.group_stopped = signal != libc::SIGTRAP;
                    return Ok(true);
                }
                Waited::Stopped(Stop::Signal(signal)) => {
                    sys::continue_with(tid, signal).map_err(doing())?
                }
                Waited::Stopped(_) => sys::continue_with(tid, 0).map_err(doing())?,
                Waited::Ended => return Ok(false),
                Waited::Runs if began.elapsed() > STOP_LIMIT => {
                    return Err(Error::DoesNotStop {
                        process: observe::named(pid),
                        tid,
                        limit_ms: STOP_LIMIT.as_millis() as u64,
                    });
                }
                // Usually this takes microseconds. A thread of this CPU can stop only after we
                // yield.
                Waited::Runs if began.elapsed() < Duration::from_millis(1) => {
                    std::thread::yield_now()
                }
                Waited::Runs => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

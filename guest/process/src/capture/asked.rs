//! State that the kernel tells only to the process itself: read by system calls of that process.

use super::keys;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, Pid};
use crate::freeze::FrozenProcess;
use crate::image::{AltStack, ItimerValue, ProcessTimer, SignalAction};
use crate::inject::{Memory, Remote};
use crate::observe::{self, Listing, NamedTimer, Pagemap, Pages};
use crate::sys;

const SIGNALS: u64 = 64;
/// The length of the kernel's signal mask.
const SIGSET_BYTES: u64 = 8;
/// A command of membarrier(2) that libc does not have.
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;
/// Since Linux 6.3.
const PR_GET_MDWE: u64 = 66;
/// Since Linux 6.4.
const PR_GET_MEMORY_MERGE: u64 = 68;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_SPEC_L1D_FLUSH: u64 = 2;
const MCL_ONFAULT: i32 = 4;
const ITIMERS: [u64; 3] = [
    libc::ITIMER_REAL as u64,
    libc::ITIMER_VIRTUAL as u64,
    libc::ITIMER_PROF as u64,
];

/// The answers of a process.
#[derive(Debug, Default)]
pub struct Answers {
    pub brk: u64,
    pub actions: Vec<SignalAction>,
    pub itimers: [ItimerValue; 3],
    pub dumpable: u32,
    pub subreaper: bool,
    pub barriers: Option<u32>,
    pub huge_pages_off: u32,
    pub deny_write_execute: u32,
    pub merges_memory: bool,
    pub locks_memory: i32,
    pub has_keys: bool,
    pub timers: Vec<ProcessTimer>,
    /// Those of the unsure descriptors that have no FD_CLOEXEC.
    pub stay_open: Vec<i32>,
    pub threads: Vec<ThreadAnswers>,
}

/// The answers of one of its threads.
#[derive(Debug, Default)]
pub struct ThreadAnswers {
    pub alt_stack: AltStack,
    pub clear_child_tid: u64,
    pub parent_death_signal: i32,
    pub secure_bits: u32,
    pub time_stamps: u32,
    pub memory_failure: u32,
    pub speculation: [u32; 3],
    pub is_confined: bool,
}

/// Asks a frozen process; afterwards its state is as before, whatever the result. `witness` is a
/// process into which a thread that is not confined may look. `unsure` are descriptors of which
/// /proc does not tell if they have FD_CLOEXEC.
pub fn ask(
    process: &FrozenProcess,
    syscall_at: u64,
    witness: Option<Pid>,
    unsure: &[i32],
) -> Result<Answers, Error> {
    let memory = Memory::open(process.pid)?;
    with_remote(process, 0, syscall_at, |remote| {
        let locked = observe::locked_bytes(process.pid)?;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let room = remote.call(
            "map a page",
            libc::SYS_mmap,
            &[0, PAGE_BYTES, protection, flags, u64::MAX, 0],
        )?;
        let locks_memory = locks_memory(process.pid, locked, room);
        let asking = Asking {
            remote,
            memory: &memory,
            room,
            witness,
        };
        let stay_open = asking.stay_open(unsure);
        let answers = ask_all(process, &asking, syscall_at);
        remote.call("unmap a page", libc::SYS_munmap, &[room, PAGE_BYTES])?;
        let locks_memory = locks_memory?;
        Ok(Answers {
            locks_memory,
            stay_open: stay_open?,
            ..answers?
        })
    })
}

/// The flags of mlockall(2) for memory to come: no file of /proc shows them, but a page does that
/// was just mapped.
fn locks_memory(pid: Pid, locked_before: u64, room: u64) -> Result<i32, Error> {
    if observe::locked_bytes(pid)? == locked_before {
        return Ok(0);
    }
    let mut listing = Listing::default();
    Pagemap::open(pid)?.list(room, room + PAGE_BYTES, Pages::Own, &mut listing)?;
    // With MCL_ONFAULT it is not there before it is used.
    Ok(match listing.pages() {
        0 => libc::MCL_FUTURE | MCL_ONFAULT,
        _ => libc::MCL_FUTURE,
    })
}

/// Runs with a thread of the process, which is parked as it stood afterwards.
fn with_remote<T>(
    process: &FrozenProcess,
    index: usize,
    syscall_at: u64,
    use_it: impl FnOnce(&Remote) -> Result<T, Error>,
) -> Result<T, Error> {
    let thread = &process.threads[index];
    let remote = Remote::new(thread.tid, syscall_at)?;
    let outcome = use_it(&remote);
    remote.park(&thread.registers, thread.signal_mask)?;
    outcome
}

/// A thread that is asked, and a page of its memory for the answers.
struct Asking<'a> {
    remote: &'a Remote,
    memory: &'a Memory,
    room: u64,
    witness: Option<Pid>,
}

fn ask_all(process: &FrozenProcess, asking: &Asking, syscall_at: u64) -> Result<Answers, Error> {
    let mut answers = asking.process()?;
    for index in 0..process.threads.len() {
        answers.threads.push(if index == 0 {
            asking.thread()?
        } else {
            with_remote(process, index, syscall_at, |remote| {
                Asking { remote, ..*asking }.thread()
            })?
        });
    }
    Ok(answers)
}

impl Asking<'_> {
    /// Makes a call that answers in memory, with so many numbers.
    fn numbers<const N: usize>(
        &self,
        op: &str,
        number: libc::c_long,
        arguments: &[u64],
    ) -> Result<[u64; N], Error> {
        self.remote.call(op, number, arguments)?;
        let mut bytes = [[0u8; 8]; N];
        self.memory.read(self.room, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Those of these descriptors that have no FD_CLOEXEC.
    fn stay_open(&self, unsure: &[i32]) -> Result<Vec<i32>, Error> {
        let mut found = Vec::new();
        for fd in unsure {
            let arguments = [*fd as u64, libc::F_GETFD as u64, 0];
            let flags = (self.remote).call("ask a descriptor", libc::SYS_fcntl, &arguments)?;
            if flags & libc::FD_CLOEXEC as u64 == 0 {
                found.push(*fd);
            }
        }
        Ok(found)
    }

    fn process(&self) -> Result<Answers, Error> {
        let mut answers = Answers {
            brk: self
                .remote
                .call("ask the heap's end", libc::SYS_brk, &[0])?,
            ..Answers::default()
        };
        let status = observe::status(self.remote.tid(), self.remote.tid())?;
        // With the default handler the rest of an action has no effect, except for SIGCHLD, where
        // it decides if children become zombies. Each question takes time while the process is
        // frozen, so only those signals are asked for.
        let asked = status.caught | status.ignored | 1 << (libc::SIGCHLD - 1);
        for signal in 1..=SIGNALS {
            if asked & 1 << (signal - 1) == 0 {
                answers.actions.push(SignalAction::default());
                continue;
            }
            let arguments = [signal, 0, self.room, SIGSET_BYTES];
            let [handler, flags, restorer, mask] =
                self.numbers("ask a signal's action", libc::SYS_rt_sigaction, &arguments)?;
            answers.actions.push(SignalAction {
                handler,
                flags,
                restorer,
                mask,
            });
        }
        for (value, which) in answers.itimers.iter_mut().zip(ITIMERS) {
            let found: [u64; 4] =
                self.numbers("ask a timer", libc::SYS_getitimer, &[which, self.room])?;
            let [interval_s, interval_us, value_s, value_us] = found.map(|number| number as i64);
            *value = ItimerValue {
                interval_s,
                interval_us,
                value_s,
                value_us,
            };
        }
        answers.dumpable = self.prctl(libc::PR_GET_DUMPABLE, 0)? as u32;
        answers.subreaper = self.prctl_number(libc::PR_GET_CHILD_SUBREAPER)? != 0;
        // EINVAL: the kernel is older than Linux 6.3 and does not tell. ENOSYS: it has none.
        let registered = [MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0];
        let registered = self.remote.try_call(libc::SYS_membarrier, &registered)?;
        answers.barriers = registered.ok().map(|commands| commands as u32);
        answers.huge_pages_off = self.prctl(libc::PR_GET_THP_DISABLE, 0)? as u32;
        answers.deny_write_execute = self.prctl_if_known(PR_GET_MDWE)?;
        answers.merges_memory = self.prctl_if_known(PR_GET_MEMORY_MERGE)? != 0;
        answers.has_keys = keys::has_some(self.remote, self.memory, self.room)?;
        for timer in observe::timers(self.remote.tid())? {
            answers.timers.push(self.timer(&timer)?);
        }
        Ok(answers)
    }

    /// The state of a timer of the process.
    fn timer(&self, timer: &NamedTimer) -> Result<ProcessTimer, Error> {
        let arguments = [timer.id as u64, self.room];
        let found: [u64; 4] = self.numbers("ask a timer", libc::SYS_timer_gettime, &arguments)?;
        let [interval_s, interval_ns, left_s, left_ns] = found.map(|number| number as i64);
        Ok(ProcessTimer {
            id: timer.id,
            clock: timer.clock,
            notify: timer.notify,
            signal: timer.signal,
            value: timer.value,
            thread: timer.thread,
            interval: (interval_s, interval_ns),
            left: (left_s, left_ns),
        })
    }

    /// True if the thread may not look into a process of its own user.
    fn is_confined(&self) -> Result<bool, Error> {
        let Some(witness) = self.witness else {
            return Ok(false);
        };
        let arguments = [witness as u64, self.room, self.room + 8];
        let looked = self
            .remote
            .try_call(libc::SYS_get_robust_list, &arguments)?;
        Ok(looked.is_err())
    }

    /// The kernel's answers about speculation: 0 where it has none.
    fn speculation(&self) -> Result<[u32; 3], Error> {
        let mut answers = [0; 3];
        // Both are told by /proc, as long as the thread has not asked for anything.
        let wanted = observe::asked_for_speculation(self.remote.tid())?;
        for (answer, what) in answers.iter_mut().zip(0..) {
            let is_worth_it = match what {
                PR_SPEC_L1D_FLUSH => sys::can_flush_l1d(),
                _ => wanted,
            };
            if is_worth_it {
                let arguments = [PR_GET_SPECULATION_CTRL, what, 0, 0, 0];
                let asked = self.remote.try_call(libc::SYS_prctl, &arguments)?;
                *answer = asked.unwrap_or(0) as u32;
            }
        }
        Ok(answers)
    }

    fn thread(&self) -> Result<ThreadAnswers, Error> {
        /// `prctl(PR_GET_TID_ADDRESS, &address)`.
        const PR_GET_TID_ADDRESS: i32 = 40;
        let [address, flags, size_bytes] = self.numbers(
            "ask for the signal stack",
            libc::SYS_sigaltstack,
            &[0, self.room],
        )?;
        self.prctl(PR_GET_TID_ADDRESS, self.room)?;
        Ok(ThreadAnswers {
            alt_stack: AltStack {
                address,
                flags: flags as i32,
                size_bytes,
            },
            clear_child_tid: self.memory.read_u64(self.room)?,
            parent_death_signal: self.prctl_number(libc::PR_GET_PDEATHSIG)?,
            secure_bits: self.prctl(libc::PR_GET_SECUREBITS, 0)? as u32,
            time_stamps: self.prctl_number(libc::PR_GET_TSC)? as u32,
            memory_failure: self.prctl(libc::PR_MCE_KILL_GET, 0)? as u32,
            speculation: self.speculation()?,
            is_confined: self.is_confined()?,
        })
    }

    fn prctl(&self, option: i32, argument: u64) -> Result<u64, Error> {
        self.remote.call(
            &format!("call prctl({option})"),
            libc::SYS_prctl,
            &[option as u64, argument, 0, 0, 0],
        )
    }

    /// Calls prctl(2) with an option that the kernel may not know: 0 then.
    fn prctl_if_known(&self, option: u64) -> Result<u32, Error> {
        let asked = self
            .remote
            .try_call(libc::SYS_prctl, &[option, 0, 0, 0, 0])?;
        Ok(asked.unwrap_or(0) as u32)
    }

    /// Calls prctl(2) with an option that answers with an int in memory.
    fn prctl_number(&self, option: i32) -> Result<i32, Error> {
        self.prctl(option, self.room)?;
        Ok(self.memory.read_u64(self.room)? as i32)
    }
}

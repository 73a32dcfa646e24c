//! Threads that are confined in a way that no file of /proc shows (Landlock).
//!
//! A confined thread may not look into a process outside of its confinement, not even into one of
//! its own user that has no privileges. So such a process is made, the witness, and the thread is
//! asked to look.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use super::asked::Answers;
use super::observed::Observed;
use crate::error::{Error, Pid, ProcessPart, failed};
use crate::freeze::FrozenProcess;
use crate::image::Filter;
use crate::observe::{self, Ids};
use crate::sys::{self, Waited};

/// The longest time that a witness may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// One witness for each user and group. When dropped, it ends them.
#[derive(Debug, Default)]
pub struct Witnesses {
    made: HashMap<(u32, u32), Pid>,
}

impl Witnesses {
    /// A witness of the real user and group. None: this kernel confines nobody.
    pub fn of(&mut self, ids: &Ids) -> Result<Option<Pid>, Error> {
        if !sys::has_landlock() {
            return Ok(None);
        }
        let (user, group) = (ids.users[0], ids.groups[0]);
        if let Some(pid) = self.made.get(&(user, group)) {
            return Ok(Some(*pid));
        }
        let made = sys::clone_witness(user, group);
        let pid = made.map_err(failed("start a process to be looked into"))?;
        self.made.insert((user, group), pid);
        let began = Instant::now();
        while observe::program(pid).as_bytes() != sys::WITNESS_NAME.to_bytes() {
            if began.elapsed() > READY_LIMIT {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(failed::<std::io::Error>("wait for a process of our own")(
                    source,
                ));
            }
            std::thread::yield_now();
        }
        Ok(Some(pid))
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        for pid in self.made.values() {
            let _ = sys::kill(*pid, libc::SIGKILL);
            while let Ok(Waited::Stopped(_)) = sys::wait_stop(*pid) {}
        }
    }
}

/// Refuses threads whose system calls are dispatched to their program.
pub fn refuse_dispatched(frozen: &FrozenProcess, observed: &Observed) -> Result<(), Error> {
    let threads = frozen.threads.iter();
    let dispatched = threads.filter(|thread| sys::dispatches_calls(thread.tid));
    let refusals: Vec<_> = dispatched
        .map(|thread| {
            let reason = "has its system calls dispatched (PR_SET_SYSCALL_USER_DISPATCH)";
            observed.refuse(ProcessPart::Thread(thread.tid), reason)
        })
        .collect();
    match refusals.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused(refusals)),
    }
}

/// Reads the filters of system calls of a process. All its threads have the same, or it is refused.
pub fn filters(frozen: &FrozenProcess, observed: &Observed) -> Result<Vec<Filter>, Error> {
    let mut found: Option<Vec<Filter>> = None;
    let threads = frozen.threads.iter().zip(&observed.threads);
    for (thread, (_, status)) in threads {
        let refuse = |reason: &str| {
            let refusal = observed.refuse(ProcessPart::Thread(thread.tid), reason);
            Err(Error::Refused(vec![refusal]))
        };
        let own = match status.seccomp {
            0 => Vec::new(),
            _ => match filters_of(thread.tid) {
                Ok(own) => own,
                Err(_) => return refuse("has filters of system calls that cannot be read here"),
            },
        };
        if own.iter().any(asks_another) {
            return refuse("has a filter of system calls that asks another process");
        }
        match &found {
            Some(first) if *first != own => {
                return refuse("has other filters of system calls (seccomp) than its process");
            }
            _ => found = Some(own),
        }
    }
    Ok(found.unwrap_or_default())
}

fn filters_of(tid: Pid) -> io::Result<Vec<Filter>> {
    const LOGS: u64 = 2;
    let numbers = 0..;
    let read = numbers.map(|number| sys::filter(tid, number).transpose());
    let read = read.map_while(|read| read);
    let filter = |(program, flags)| Filter {
        program,
        logs: flags & LOGS != 0,
    };
    read.map(|read| read.map(filter)).collect()
}

/// True if a program can answer SECCOMP_RET_USER_NOTIF.
fn asks_another(filter: &Filter) -> bool {
    const RETURN_VALUE: u16 = 6;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ACTION: u32 = 0xffff_0000;
    // struct sock_filter: code, two jumps, value.
    let mut instructions = filter.program.chunks_exact(8);
    instructions.any(|bytes| {
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let value = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        code == RETURN_VALUE && value & ACTION == USER_NOTIF
    })
}

/// Refuses what only the process itself could tell, and what an image does not hold.
pub fn refuse(frozen: &FrozenProcess, observed: &Observed, answers: &Answers) -> Result<(), Error> {
    let mut refusals = Vec::new();
    if answers.has_keys {
        let reason = "has keys of its own in a keyring of the kernel (keyctl)";
        refusals.push(observed.refuse(ProcessPart::Process, reason));
    }
    for (thread, answers) in frozen.threads.iter().zip(&answers.threads) {
        if answers.is_confined {
            let reason = "is confined by Landlock or another security module";
            refusals.push(observed.refuse(ProcessPart::Thread(thread.tid), reason));
        }
    }
    match refusals.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused(refusals)),
    }
}

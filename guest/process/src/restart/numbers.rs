//! Numbers of processes and threads: waits until the kernel has freed them, and says who has them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Pid, ProcessPart, Refusal, failed};
use crate::image::Image;
use crate::observe::{self, Relations};

/// Time that a parent may take to wait for a process that has ended.
const ZOMBIE_LIMIT: Duration = Duration::from_secs(2);
/// Time that the kernel may take to free the number of a process that is gone. Linux 6.15 and newer
/// were seen to take up to 1.5 s.
const FREE_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// Waits a moment for the parents of processes that have ended and still have numbers of the image.
pub fn wait_for_parents(image: &Image) {
    let began = Instant::now();
    let threads = image.processes.iter().flat_map(|process| &process.threads);
    let ended = image.ended.iter().map(|child| child.pid);
    let numbers = threads.map(|thread| thread.tid).chain(ended);
    let is_zombie = |tid: Pid| observe::is_zombie(tid).is_ok_and(|ended| ended);
    while numbers.clone().any(is_zombie) && began.elapsed() < ZOMBIE_LIMIT {
        std::thread::sleep(PAUSE);
    }
}

/// Numbers that are in use, as it was at one moment.
#[derive(Debug)]
pub struct InUse {
    /// Groups and sessions: the number, a process in it, and the kind.
    followed: HashMap<Pid, (Pid, &'static str)>,
}

impl InUse {
    /// Looks at all processes.
    pub fn look() -> Self {
        let mut followed = HashMap::new();
        for pid in observe::all_processes().unwrap_or_default() {
            // It may end meanwhile.
            if let Ok(Relations { group, session }) = observe::relations(pid) {
                followed.insert(group, (pid, "process group"));
                followed.insert(session, (pid, "session"));
            }
        }
        Self { followed }
    }

    /// Says how a number is in use, if it is, as the end of a sentence about it.
    pub fn of(&self, number: Pid) -> Option<String> {
        if Path::new(&format!("/proc/{number}")).exists() {
            return Some(match observe::is_zombie(number) {
                Ok(true) => "it is in use by a process that ended and was not waited for".into(),
                _ => match observe::program(number) {
                    name if name.is_empty() => "it is in use".into(),
                    name => format!("it is in use ({name})"),
                },
            });
        }
        let (other, what) = self.followed.get(&number)?;
        let other = observe::named(*other);
        Some(format!("process {other} is in the {what} of this number"))
    }
}

/// The refusal of a number that is in use.
pub fn refusal(pid: Pid, tid: Pid, how: &str) -> Refusal {
    let reason = format!("cannot have its number back: {how}");
    Refusal::new(pid, ProcessPart::Thread(tid), reason)
}

/// Has `make` make a process or thread with this number. The kernel frees the number of one that
/// ended some time after it is gone from /proc, so a number that nobody has is tried again.
pub fn make_with<T>(
    tid: Pid,
    mut make: impl FnMut() -> Result<io::Result<T>, Error>,
) -> Result<T, Error> {
    let began = Instant::now();
    let mut has_looked = false;
    loop {
        let error = match make()? {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(failed(format!(
                "make a process or thread with the number {tid}"
            ))(error));
        }
        let is_over = began.elapsed() >= FREE_LIMIT;
        if !std::mem::replace(&mut has_looked, true) || is_over {
            let how = InUse::look().of(tid).or_else(|| is_over.then(still_in_use));
            if let Some(how) = how {
                return Err(Error::Refused(vec![refusal(tid, tid, &how)]));
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn still_in_use() -> String {
    let limit_s = FREE_LIMIT.as_secs();
    format!("nobody has it, and the kernel has not freed it within {limit_s} s")
}

#[cfg(test)]
#[path = "numbers_test.rs"]
mod numbers_test;

//! Refuses what ties a process to others in a way that an image does not hold.

use super::observed::{Observation, Observed};
use crate::error::{ProcessPart, Refusal};
use crate::observe;
use crate::sys::FileTable;

/// Adds the refusals of what `process` has in common with others, and of others that would keep its
/// number in use.
pub fn find(process: &Observed, observed: &Observation, refusals: &mut Vec<Refusal>) {
    let pid = process.pid;
    let mut refuse = |reason: String| refusals.push(process.refuse(ProcessPart::Process, reason));
    for shared in observed.common.iter().filter(|shared| shared.pid == pid) {
        let what = match shared.table {
            FileTable::Memory => "its memory (CLONE_VM)",
            FileTable::Descriptors => "its descriptors (CLONE_FILES)",
            FileTable::Directories => "its directory and umask (CLONE_FS)",
        };
        refuse(format!(
            "shares {what} with process {}",
            observe::named(shared.other)
        ));
    }
    let ended = process.ended.iter().map(|child| child.pid);
    for number in [pid].into_iter().chain(ended) {
        for follower in &observed.followers {
            let what = if follower.relations.session == number {
                "session"
            } else if follower.relations.group == number {
                "process group"
            } else {
                continue;
            };
            let who = match number == pid {
                true => String::new(),
                false => format!("has an ended child, {}, that ", observe::named(number)),
            };
            refuse(format!(
                "{who}leads the {what} of process {}, which would keep its number in use and is \
                 not captured with it: end that one, start it with setsid, capture the leader with \
                 --tree if that has both, or leave out --kill",
                observe::named(follower.pid)
            ));
        }
    }
}

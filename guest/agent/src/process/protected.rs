//! Refuses processes whose freeze would stop the agent or the guest.

use std::fs;

use super::answers::refused;
use crate::stream::Failure;

/// The flag in /proc/PID/stat of a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Refuses such a process by name, and a number that is not a process.
pub fn refuse(pid: i32) -> Result<(), Failure> {
    let own = std::process::id() as i32;
    let why = if pid <= 0 {
        "is no number of a process"
    } else if pid == own {
        "is the agent"
    } else if pid == 1 {
        "is the first process of the guest"
    } else if ancestors(own).any(|ancestor| ancestor == pid) {
        "started the agent"
    } else if is_of_kernel(pid) {
        "is a thread of the kernel"
    } else {
        return refuse_thread(pid);
    };
    Err(refused(format!("process {pid} {why}")))
}

/// /proc has a directory for each thread, too.
fn refuse_thread(tid: i32) -> Result<(), Failure> {
    match field(tid, "Tgid") {
        Some(process) if process != tid => {
            Err(refused(format!("{tid} is a thread of process {process}")))
        }
        _ => Ok(()),
    }
}

fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    let parent = |pid: &i32| field(*pid, "PPid").filter(|parent| *parent > 0);
    std::iter::successors(parent(&pid), parent)
}

/// A number in /proc/PID/status.
fn field(pid: i32, key: &str) -> Option<i32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

fn is_of_kernel(pid: i32) -> bool {
    let flags = || -> Option<u64> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may have anything in it. Behind it: state, five numbers, flags.
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
        rest.split_ascii_whitespace().nth(6)?.parse().ok()
    };
    flags().is_some_and(|flags| flags & PF_KTHREAD != 0)
}

use serde::{Deserialize, Serialize};

use super::descriptors::PSEUDO_TERMINALS;
use super::{gone_or, read, read_text, unreadable};
use crate::error::{Error, Pid, failed};

/// Flags of a task by which the kernel knows a flusher: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
const FLUSHER: u64 = 0x18_0000;

/// User and group identity and privileges of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Real, effective, saved and file system user.
    pub users: [u32; 4],
    /// Real, effective, saved and file system group.
    pub groups: [u32; 4],
    /// Supplementary groups.
    pub more_groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub capabilities: [u64; 5],
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
}

/// Contents of /proc/PID/task/TID/status and stat for a thread and its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name of the thread.
    pub name: Vec<u8>,
    /// R, S, D, T (stopped), t (stopped by a tracer), Z and so on.
    pub state: char,
    /// The process it belongs to.
    pub process: Pid,
    /// The parent.
    pub parent: Pid,
    /// 0: nobody.
    pub tracer: Pid,
    /// Identity and privileges.
    pub ids: Ids,
    /// umask(2).
    pub umask: u32,
    /// 0: none.
    pub seccomp: u32,
    /// The signals it ignores: bit N - 1 for signal N.
    pub ignored: u64,
    /// The signals that it handles.
    pub caught: u64,
    /// Process group.
    pub group: Pid,
    /// Session.
    pub session: Pid,
    /// The signal that its parent gets when it ends.
    pub exit_signal: i32,
    /// True if it writes back to disks for others (PR_SET_IO_FLUSHER).
    pub is_flusher: bool,
}

/// Places of the parts of a process's memory, for the kernel: `struct prctl_mm_map`, without brk,
/// which is asked of the process.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLayout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
}

/// The status of a thread of a process.
pub fn status(pid: Pid, tid: Pid) -> Result<Status, Error> {
    let text = read_text(pid, &format!("task/{tid}/status"))?;
    let (name, words) = stat(pid, &format!("task/{tid}/stat"))?;
    parse(&text, name, &words).ok_or_else(|| unreadable(pid, "status"))
}

fn parse(text: &str, name: Vec<u8>, stat: &[String]) -> Option<Status> {
    let field = |key: &str| {
        Some(
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?
                .trim(),
        )
    };
    let hex = |key: &str| u64::from_str_radix(field(key)?, 16).ok();
    let four = |key: &str| {
        let mut words = field(key)?
            .split_ascii_whitespace()
            .map(|word| word.parse().ok());
        Some([
            words.next()??,
            words.next()??,
            words.next()??,
            words.next()??,
        ])
    };
    let groups: Option<Vec<u32>> = field("Groups")?
        .split_ascii_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    Some(Status {
        name,
        state: field("State")?.chars().next()?,
        process: field("Tgid")?.parse().ok()?,
        parent: field("PPid")?.parse().ok()?,
        tracer: field("TracerPid")?.parse().ok()?,
        ids: Ids {
            users: four("Uid")?,
            groups: four("Gid")?,
            more_groups: groups?,
            capabilities: [
                hex("CapInh")?,
                hex("CapPrm")?,
                hex("CapEff")?,
                hex("CapBnd")?,
                hex("CapAmb")?,
            ],
            no_new_privileges: field("NoNewPrivs")? == "1",
        },
        // A process that is ending has no umask.
        umask: field("Umask").map_or(Some(0), |value| u32::from_str_radix(value, 8).ok())?,
        seccomp: field("Seccomp").map_or(Some(0), |value| value.parse().ok())?,
        ignored: hex("SigIgn")?,
        caught: hex("SigCgt")?,
        group: stat.get(2)?.parse().ok()?,
        session: stat.get(3)?.parse().ok()?,
        // Field 38 of proc(5).
        exit_signal: stat.get(38 - 3)?.parse().ok()?,
        is_flusher: stat.get(9 - 3)?.parse::<u64>().ok()? & FLUSHER == FLUSHER,
    })
}

/// The name, and the words behind it: the first is the third field of proc(5), `state`.
fn stat(pid: Pid, file: &str) -> Result<(Vec<u8>, Vec<String>), Error> {
    let bytes = read(pid, file)?;
    let open = bytes.iter().position(|byte| *byte == b'(');
    // The name may have any byte in it, so its end is the last parenthesis.
    let close = bytes.iter().rposition(|byte| *byte == b')');
    let (Some(open), Some(close)) = (open, close) else {
        return Err(unreadable(pid, file));
    };
    let rest = String::from_utf8_lossy(&bytes[close + 1..]).into_owned();
    Ok((
        bytes[open + 1..close].to_vec(),
        rest.split_ascii_whitespace().map(str::to_owned).collect(),
    ))
}

/// Reads the places of the parts of its memory.
pub fn layout(pid: Pid) -> Result<MemoryLayout, Error> {
    let (_, words) = stat(pid, "stat")?;
    let field = |number: usize| words.get(number - 3)?.parse().ok();
    let found = || {
        Some(MemoryLayout {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
        })
    };
    found().ok_or_else(|| unreadable(pid, "stat"))
}

/// Its resource limits, soft and hard, by the number of the resource. To ask for them by prlimit(2)
/// takes CAP_SYS_RESOURCE.
pub fn limits(pid: Pid) -> Result<Vec<(u64, u64)>, Error> {
    let text = read_text(pid, "limits")?;
    parse_limits(&text).ok_or_else(|| unreadable(pid, "limits"))
}

fn parse_limits(text: &str) -> Option<Vec<(u64, u64)>> {
    /// Length of a limit's name in its line; the name has spaces in it.
    const NAME_BYTES: usize = 26;
    let number = |word: &str| match word {
        "unlimited" => Some(libc::RLIM64_INFINITY),
        number => number.parse().ok(),
    };
    let limit = |line: &str| {
        let mut words = line.get(NAME_BYTES..)?.split_ascii_whitespace();
        Some((number(words.next()?)?, number(words.next()?)?))
    };
    text.lines().skip(1).map(limit).collect()
}

/// The auxiliary vector, as it is in memory.
pub fn auxv(pid: Pid) -> Result<Vec<u8>, Error> {
    read(pid, "auxv")
}

/// Its threads.
pub fn threads(pid: Pid) -> Result<Vec<Pid>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(gone_or(pid, "task"))? {
        let name = entry.map_err(gone_or(pid, "task"))?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok());
        found.push(tid.ok_or_else(|| unreadable(pid, "task"))?);
    }
    found.sort_unstable();
    Ok(found)
}

/// Its children, also those that ended and were not waited for.
pub fn children(pid: Pid) -> Result<Vec<Pid>, Error> {
    let mut found = Vec::new();
    for tid in threads(pid)? {
        let text = match read_text(pid, &format!("task/{tid}/children")) {
            // The thread ended; its children have another parent, which the caller will see.
            Err(Error::Gone(_)) => continue,
            other => other?,
        };
        for word in text.split_ascii_whitespace() {
            found.push(word.parse().map_err(|_| unreadable(pid, "children"))?);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// True if the process ended and nobody has waited for it.
pub fn is_zombie(pid: Pid) -> Result<bool, Error> {
    let (_, words) = stat(pid, "stat")?;
    Ok(is_over(&words))
}

/// A process that ended and was not waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedProcess {
    /// Its number.
    pub pid: Pid,
    /// The name of its program.
    pub name: Vec<u8>,
    /// Its group and session.
    pub relations: Relations,
    /// The signal that its parent got when it ended.
    pub exit_signal: i32,
    /// Its status, as of wait(2).
    pub status: i32,
    /// Other threads of it run.
    pub has_threads: bool,
}

/// Reads what is left of a process. None: it has not ended.
pub fn ended(pid: Pid) -> Result<Option<EndedProcess>, Error> {
    let (name, words) = stat(pid, "stat")?;
    if !is_over(&words) {
        return Ok(None);
    }
    let field = |number: usize| words.get(number - 3)?.parse().ok();
    let found = || {
        Some(EndedProcess {
            pid,
            name,
            relations: Relations {
                group: field(5)?,
                session: field(6)?,
            },
            exit_signal: field(38)?,
            status: field(52)?,
            has_threads: field(20)? > 1,
        })
    };
    found().map(Some).ok_or_else(|| unreadable(pid, "stat"))
}

fn is_over(stat: &[String]) -> bool {
    stat.first()
        .is_some_and(|state| state == "Z" || state == "X")
}

/// The relations of a process that keep numbers of others in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations {
    /// Process group.
    pub group: Pid,
    /// Session.
    pub session: Pid,
}

/// Reads the group and session of a process, also of one that ended and was not waited for.
pub fn relations(pid: Pid) -> Result<Relations, Error> {
    let (_, words) = stat(pid, "stat")?;
    let field = |number: usize| words.get(number - 3)?.parse().ok();
    let found = || {
        Some(Relations {
            group: field(5)?,
            session: field(6)?,
        })
    };
    found().ok_or_else(|| unreadable(pid, "stat"))
}

/// The number of the pseudo-terminal that controls the session of a process. None: it has no
/// controlling terminal, or one of another kind.
pub fn controlling_terminal(pid: Pid) -> Option<u32> {
    let (_, words) = stat(pid, "stat").ok()?;
    let device: i32 = words.get(7 - 3)?.parse().ok()?;
    pseudo_terminal(device as u32)
}

/// The number of a pseudo-terminal, by its device as the kernel shows it: 12 bits of the major
/// number from bit 8 on, and the minor one around them.
pub fn pseudo_terminal(device: u32) -> Option<u32> {
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xf_ff00;
    (major == PSEUDO_TERMINALS).then_some(minor)
}

/// All processes of this machine, as far as /proc shows them.
pub fn all_processes() -> Result<Vec<Pid>, Error> {
    let entries = std::fs::read_dir("/proc").map_err(failed("list processes"))?;
    let numbers = entries.flatten();
    Ok(numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// The name of a process's program, or of what it calls itself; empty if there is no such process.
pub fn program(pid: Pid) -> String {
    let name = read_text(pid, "comm").unwrap_or_default();
    name.trim_end_matches('\n').to_owned()
}

/// A process for a message: `301 (sleep)`, or its number alone if it has ended.
pub fn named(pid: Pid) -> String {
    match program(pid) {
        name if name.is_empty() => pid.to_string(),
        name => format!("{pid} ({name})"),
    }
}

#[cfg(test)]
#[path = "status_test.rs"]
mod status_test;

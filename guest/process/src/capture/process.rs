//! The state of a process and of its threads.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::asked::{self, Answers, ThreadAnswers};
use super::confined::{self, Witnesses};
use super::files;
use super::held::HeldFiles;
use super::observed::Observed;
use crate::error::{Error, Pid, failed};
use crate::freeze::{FrozenProcess, FrozenThread};
use crate::image::{
    Advice, Confined, Credentials, Mapped, MappedFile, Mapping, Process, RobustList, Rseq,
    Settings, Thread, ThreadSettings,
};
use crate::observe::{self, Descriptor, Status, TerminalFile};
use crate::sys::{self, Queue};

/// The state of a process, but for its open files and pages.
#[derive(Debug)]
pub struct State {
    pub process: Process,
    /// Its registrations for membarrier(2), if the kernel tells.
    pub barriers: Option<u32>,
    pub settings: Settings,
    pub confined: Confined,
    /// Descriptors without FD_CLOEXEC, whatever /proc says.
    pub stay_open: Vec<i32>,
}

/// The state of a frozen process.
pub fn state(
    frozen: &FrozenProcess,
    observed: &Observed,
    parent: Option<u32>,
    witnesses: &mut Witnesses,
    held: &mut HeldFiles,
) -> Result<State, Error> {
    let pid = frozen.pid;
    let vdso = observed.vdso.as_ref().ok_or(Error::Gone(pid))?;
    // First, because it would meet the calls that are asked for here.
    confined::refuse_dispatched(frozen, observed)?;
    let filters = confined::filters(frozen, observed)?;
    let witness = witnesses.of(&observed.leader().ids)?;
    let unsure = unsure_descriptors(observed);
    let mut answers = asked::ask(frozen, vdso.syscall_at, witness, &unsure)?;
    confined::refuse(frozen, observed, &answers)?;
    let mut process = Process {
        pid,
        parent,
        group: observed.leader().group,
        session: observed.leader().session,
        executable: executable(pid)?,
        layout: observe::layout(pid)?,
        brk: answers.brk,
        auxv: observe::auxv(pid)?,
        vdso: vdso.start(),
        directory: link(pid, "cwd")?,
        umask: observed.leader().umask,
        actions: std::mem::take(&mut answers.actions),
        pending: sys::pending_signals(pid, Queue::Process)
            .map_err(failed("read pending signals"))?,
        itimers: answers.itimers,
        limits: observe::limits(pid)?,
        dumpable: answers.dumpable,
        subreaper: answers.subreaper,
        personality: number(pid, "personality", 16)? as u32,
        oom_score_adj: number(pid, "oom_score_adj", 10)? as i32,
        ..Process::default()
    };
    for mapping in observed
        .mappings
        .iter()
        .filter(|mapping| !mapping.is_vdso())
    {
        let mapping = self::mapping(pid, mapping, &mut process.mapped_files, held)?;
        process.mappings.push(mapping);
    }
    for (frozen, answers) in frozen.threads.iter().zip(&answers.threads) {
        let status = observed.threads.iter().find(|(tid, _)| *tid == frozen.tid);
        let (_, status) = status.ok_or(Error::Gone(frozen.tid))?;
        process.threads.push(thread(frozen, status, answers)?);
    }
    let barriers = answers.barriers;
    let stay_open = std::mem::take(&mut answers.stay_open);
    let settings = Settings {
        is_stopped: frozen.is_stopped(),
        ..settings(pid, observed, answers)?
    };
    Ok(State {
        process,
        barriers,
        stay_open,
        settings,
        confined: Confined {
            root: observed.root.as_os_str().as_bytes().to_vec(),
            filters,
        },
    })
}

/// Descriptors that /proc shows as closed by exec(2), and may not be: a terminal that was opened by
/// TIOCGPTPEER keeps the flag with which that was done.
fn unsure_descriptors(observed: &Observed) -> Vec<i32> {
    let is_unsure = |open: &&Descriptor| {
        let is_slave = matches!(open.terminal(), Some(TerminalFile::Slave(_)));
        is_slave && open.flags & libc::O_CLOEXEC != 0
    };
    let unsure = observed.descriptors.iter().filter(is_unsure);
    unsure.map(|open| open.fd).collect()
}

fn settings(pid: Pid, observed: &Observed, answers: Answers) -> Result<Settings, Error> {
    let mut threads = Vec::new();
    for ((tid, _), answers) in observed.threads.iter().zip(&answers.threads) {
        threads.push(ThreadSettings {
            timer_slack_ns: observe::timer_slack_ns(*tid)?,
            time_stamps: answers.time_stamps,
            memory_failure: answers.memory_failure,
            speculation: answers.speculation,
        });
    }
    Ok(Settings {
        exit_signal: observed.leader().exit_signal,
        huge_pages_off: answers.huge_pages_off,
        deny_write_execute: answers.deny_write_execute,
        merges_memory: answers.merges_memory,
        locks_memory: answers.locks_memory,
        core_filter: observe::core_filter(pid)?,
        timers: answers.timers,
        threads,
        ..Settings::default()
    })
}

fn thread(
    frozen: &FrozenThread,
    status: &Status,
    answers: &ThreadAnswers,
) -> Result<Thread, Error> {
    let tid = frozen.tid;
    let doing = || failed(format!("read the state of thread {tid}"));
    let (address, len) = sys::robust_list(tid).map_err(doing())?;
    let rseq = sys::rseq_area(tid).map_err(doing())?;
    Ok(Thread {
        tid,
        name: status.name.clone(),
        registers: frozen.registers,
        xstate: sys::xstate(tid).map_err(doing())?,
        signal_mask: frozen.signal_mask,
        alt_stack: answers.alt_stack,
        clear_child_tid: answers.clear_child_tid,
        robust_list: RobustList { address, len },
        rseq: rseq.map(|area| Rseq {
            address: area.address,
            size_bytes: area.size_bytes,
            signature: area.signature,
        }),
        pending: sys::pending_signals(tid, Queue::Thread).map_err(doing())?,
        credentials: Credentials {
            ids: status.ids.clone(),
            secure_bits: answers.secure_bits,
        },
        nice: sys::nice(tid).map_err(doing())?,
        schedule: sys::schedule(tid).map_err(doing())?,
        affinity: sys::affinity(tid).map_err(doing())?,
        parent_death_signal: answers.parent_death_signal,
    })
}

fn mapping(
    pid: Pid,
    observed: &observe::Mapping,
    known: &mut Vec<MappedFile>,
    held: &mut HeldFiles,
) -> Result<Mapping, Error> {
    const ADVICE: [(&[u8; 2], Advice); 10] = [
        (b"gd", Advice::GrowsDown),
        (b"nr", Advice::NoReserve),
        (b"dc", Advice::DontFork),
        (b"wf", Advice::WipeOnFork),
        (b"dd", Advice::DontDump),
        (b"hg", Advice::HugePage),
        (b"nh", Advice::NoHugePage),
        (b"mg", Advice::Mergeable),
        (b"sr", Advice::Sequential),
        (b"rr", Advice::Random),
    ];
    let is_of_window = files::is_of_window(observed);
    let mut advice: Vec<Advice> = ADVICE
        .iter()
        .filter(|(flag, _)| observed.has(flag))
        .map(|(_, advice)| *advice)
        // The kernel sets this flag on all memory of a window.
        .filter(|advice| *advice != Advice::HugePage || !is_of_window)
        .collect();
    if observed.has(b"lo") {
        advice.push(if observed.has(b"lf") {
            Advice::LockedOnFault
        } else {
            Advice::Locked
        });
    }
    let what = if observed.has(b"dp") {
        Mapped::Droppable
    } else if !observed.is_of_file() || is_of_window {
        Mapped::Anonymous
    } else {
        of_file(pid, observed, known, held)?
    };
    Ok(Mapping {
        start: observed.start,
        end: observed.end,
        protection: observed.protection,
        what,
        advice,
        ..Mapping::default()
    })
}

/// Memory of a file.
fn of_file(
    pid: Pid,
    observed: &observe::Mapping,
    known: &mut Vec<MappedFile>,
    held: &mut HeldFiles,
) -> Result<Mapped, Error> {
    let link = files::map_link(pid, observed);
    let (offset, writable) = (observed.offset, observed.has(b"mw"));
    let Ok(found) = files::mapped_file(&link, &observed.name) else {
        let changed = Error::BadImage("a mapped file changed while its process stood still");
        let held = held.index(&link)?.ok_or(changed)?;
        return Ok(match observed.shared {
            true => Mapped::SharedHeld {
                held,
                offset,
                writable,
            },
            false => Mapped::PrivateHeld { held, offset },
        });
    };
    let place = known.iter().position(|other| *other == found);
    let file = place.unwrap_or_else(|| {
        known.push(found);
        known.len() - 1
    }) as u32;
    Ok(match observed.shared {
        true => Mapped::SharedFile {
            file,
            offset,
            writable,
        },
        false => Mapped::PrivateFile { file, offset },
    })
}

fn executable(pid: Pid) -> Result<MappedFile, Error> {
    let name =
        std::fs::read_link(format!("/proc/{pid}/exe")).map_err(failed("read a program's name"))?;
    files::mapped_file(Path::new(&format!("/proc/{pid}/exe")), &name)
        .map_err(|_| Error::BadImage("a program's file changed while its process stood still"))
}

fn link(pid: Pid, name: &str) -> Result<Vec<u8>, Error> {
    let path = format!("/proc/{pid}/{name}");
    let target = std::fs::read_link(&path).map_err(failed(format!("read {path}")))?;
    Ok(target.as_os_str().as_bytes().to_vec())
}

fn number(pid: Pid, name: &str, radix: u32) -> Result<i64, Error> {
    let path = format!("/proc/{pid}/{name}");
    let text = std::fs::read_to_string(&path).map_err(failed(format!("read {path}")))?;
    i64::from_str_radix(text.trim(), radix)
        .map_err(|_| Error::BadImage("the kernel wrote a number in an unknown way"))
}
